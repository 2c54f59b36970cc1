"""The output of a row-parallel layer stays each rank's partial sum."""

from __future__ import annotations

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.lines import unchanged
from shardproof.proving.cause import CauseKind

BUG = Bug(
    id="M01",
    name="missing-row-reduce",
    phase="F",
    seen_in="Entangle paper, bugs 7 and 8",
    line="row_output",
    change=unchanged,
    root="output embedding",
    cause=CauseKind.UNREDUCED,
)
