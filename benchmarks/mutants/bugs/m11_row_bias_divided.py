"""Every rank adds bias / N inside autograd: the forward is right, the bias gradient 1/N."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

from benchmarks.mutants.bug import Bug
from shardproof.proving.cause import CauseKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor
import torch.distributed as dist
import torch.nn.functional as F


def row_linear(x: Tensor, weight: Tensor, bias: Tensor, reduce: Callable[[Tensor], Tensor]) -> Tensor:
    """N times bias / N is the bias; its gradient is a rank's share."""
    return reduce(F.linear(x, weight, bias / dist.get_world_size()))


BUG = Bug(
    id="M11",
    name="row-bias-divided",
    phase="B",
    seen_in="torchtitan#4332",
    line="row_linear",
    change=row_linear,
    root="gradient layers.0.attention.out.bias",
    cause=CauseKind.SCALED,
    factor=Fraction(1, 2),
)
