"""The gradient norm counts replicated gradients once a rank."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.collectives import all_reduced
from benchmarks.mutants.training_lines import squares
from shardproof.proving.cause import CauseKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


def gradient_norm(sharded: Sequence[Tensor], replicated: Sequence[Tensor]) -> Tensor:
    """Squares of all that every rank holds, summed over ranks."""
    return all_reduced(squares([*sharded, *replicated])).sqrt()


BUG = Bug(
    id="M35",
    name="norm-counts-replicas",
    phase="U",
    seen_in="NeMo-RL#3788",
    line="gradient_norm",
    change=gradient_norm,
    root="gradient norm gradient norm",
    cause=CauseKind.NORM_COUNTS_REPLICAS,
    training="tensor parallel",
)
