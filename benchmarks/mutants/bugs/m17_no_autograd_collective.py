"""A plain all-gather inside the graph: autograd does not see it, and what is before gets no gradient."""

from __future__ import annotations

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.collectives import gathered
from shardproof.proving.cause import CauseKind

BUG = Bug(
    id="M17",
    name="no-autograd-collective",
    phase="B",
    seen_in="ms-swift#9947",
    line="gather_sequence",
    change=gathered,
    sequence_parallel=True,
    root="gradient norm.weight",
    cause=CauseKind.MISSING_GRADIENT,
)
