"""Ops that make tensors from shapes, numbers and dtypes alone: their results are real constants."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

if TYPE_CHECKING:
    from torch._ops import OpOverload

_EMPTY_NAMES = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "empty_permuted")
_FULL_NAMES = (
    *("zeros", "ones", "full", "zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full"),
    *("arange", "linspace", "logspace", "eye", "scalar_tensor", "tril_indices", "triu_indices"),
    *("_efficientzerotensor", "hann_window", "hamming_window", "blackman_window", "bartlett_window", "kaiser_window"),
)


def _overloads(names: tuple[str, ...]) -> frozenset[OpOverload]:
    packets = [getattr(torch.ops.aten, name) for name in names]
    return frozenset(
        getattr(packet, overload) for packet in packets for overload in packet.overloads() if "out" not in overload
    )


# Memory that the program has not written yet: filled with NaN, which is refused where it is used.
EMPTY: Final = _overloads(_EMPTY_NAMES)
FACTORIES: Final = EMPTY | _overloads(_FULL_NAMES)
