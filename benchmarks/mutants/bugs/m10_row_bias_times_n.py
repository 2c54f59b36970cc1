"""Every rank adds the bias before the all-reduce."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.mutants.bug import Bug
from shardproof.proving.cause import CauseKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor
import torch.nn.functional as F


def row_linear(x: Tensor, weight: Tensor, bias: Tensor, reduce: Callable[[Tensor], Tensor]) -> Tensor:
    """The bias is summed with the partial products, N times."""
    return reduce(F.linear(x, weight, bias))


BUG = Bug(
    id="M10",
    name="row-bias-times-N",
    phase="F",
    seen_in="text-generation-inference#1036, Paddle#35186",
    line="row_linear",
    change=row_linear,
    root="output layers.0.attention.out",
    cause=CauseKind.SAME_VECTOR_OFF,
)
