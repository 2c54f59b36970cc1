"""Each rank clips by the norm of what it holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.training_lines import squares
from shardproof.proving.cause import CauseKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


def gradient_norm(sharded: Sequence[Tensor], replicated: Sequence[Tensor]) -> Tensor:
    """The rank's own."""
    return squares([*sharded, *replicated]).sqrt()


BUG = Bug(
    id="M37",
    name="local-clip",
    phase="U,R",
    seen_in="DeepSpeed#1801 (BLOOM)",
    line="gradient_norm",
    change=gradient_norm,
    root="gradient norm gradient norm",
    cause=CauseKind.NORM_OF_PART,
    training="tensor parallel",
)
