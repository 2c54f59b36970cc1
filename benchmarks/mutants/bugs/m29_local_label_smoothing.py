"""Label smoothing takes the mean of a rank's own part of the vocabulary."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.mutants.bug import Bug
from shardproof.proving.cause import CauseKind

if TYPE_CHECKING:
    from torch import Tensor


def smoothing_mean(shifted: Tensor, _vocabulary: int) -> Tensor:
    """Local vocabulary size and local mean."""
    return shifted.mean(-1)


BUG = Bug(
    id="M29",
    name="local-label-smoothing",
    phase="F,R",
    seen_in="Megatron-LM#737",
    line="smoothing_mean",
    change=smoothing_mean,
    root="output loss",
    cause=CauseKind.OWN_MEAN,
)
