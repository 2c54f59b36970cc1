"""The residues of a program's variables: drawn, the same for the same value."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import torch

from shardproof.exact.algebra.blocks import blocks
from shardproof.exact.algebra.finite import all_finite
from shardproof.exact.algebra.splitmix import GOLDEN_GAMMA, mix_to_residues

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from shardproof.exact.algebra.field import Field


def draw_for_values(values: Tensor, *, field: Field, key: int) -> Tensor:
    """Drawn residues that depend on the key and the real value alone, in float64.

    Equal values get equal residues, wherever they are held: replicas, shards and tied weights stay what they are. Small
    dyadic numbers (0, 1, -0.5, 3/64: what programs initialise with on purpose) keep their own meaning.
    """
    real = values.detach().to("cpu", torch.float64).reshape(-1).contiguous()
    if not all_finite(real):
        msg = "a tensor holds NaN or infinity; exact arithmetic needs finite numbers"
        raise FloatingPointError(msg)
    start = (GOLDEN_GAMMA * (key * 2 + 1) + 2**63) % 2**64 - 2**63
    drawn = torch.empty_like(real)
    for drawn_block, block in blocks(drawn, real):
        drawn_block.copy_(_draw_block(block, field, start))
    return drawn.to(values.device).view(values.shape)


def _draw_block(real: Tensor, field: Field, start: int) -> Tensor:
    drawn = mix_to_residues(real.view(torch.int64) + start, field)
    scaled = real * 64
    plain = (real.abs() <= 64) & (scaled == scaled.round())
    if bool(plain.any()):
        found, which = scaled[plain].unique(return_inverse=True)
        residues = [float(field.representative(Fraction(int(x), 64))) for x in found.tolist()]
        drawn[plain] = torch.tensor(residues, dtype=torch.float64)[which]
    return drawn


@dataclass(slots=True)
class KnownNumbers:
    """A set of float64 numbers; those that keep their own meaning (see `draw_for_values`) are never in it.

    They are sorted when the first tensor is looked up, which most programs never do: a trained parameter is a variable
    anyway.

    Attributes:
        tensors: that hold them, in float64; not to be changed from here on.
    """

    tensors: tuple[Tensor, ...] = ()
    _ascending: Tensor | None = None

    @classmethod
    def of(cls, tensors: Iterable[Tensor]) -> KnownNumbers:
        """The numbers of some tensors, of any shapes, which are not to be changed from here on."""
        return cls(tuple(tensor.detach().to("cpu", torch.float64) for tensor in tensors))

    def find(self, tensor: Tensor) -> Tensor | None:
        """Booleans of the tensor's shape: which elements are in the set; None if none are, or it is not float64."""
        if tensor.dtype != torch.float64 or not len(self._sorted()):
            return None
        numbers, values = self._sorted(), tensor.detach().to("cpu").contiguous()
        at = torch.searchsorted(numbers, values).clamp_(max=len(numbers) - 1)
        found = numbers[at] == values
        return found.to(tensor.device) if bool(found.any()) else None

    def _sorted(self) -> Tensor:
        if self._ascending is None:
            found = torch.cat([x.reshape(-1) for x in self.tensors] or [torch.zeros(0, dtype=torch.float64)]).unique()
            lasting = found.isfinite() & ((found * 64 != (found * 64).round()) | (found.abs() > 64))
            self._ascending = found[lasting]
        return self._ascending
