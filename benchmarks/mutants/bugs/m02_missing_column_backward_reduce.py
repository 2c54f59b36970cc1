"""The input of a column-parallel layer gets each rank's partial gradient; the forward is identical."""

from __future__ import annotations

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.lines import unchanged
from shardproof.proving.cause import CauseKind

BUG = Bug(
    id="M02",
    name="missing-column-backward-reduce",
    phase="B",
    seen_in="torchtitan#1805, spmd_types docs",
    line="column_input",
    change=unchanged,
    root="output gradient layers.0.mlp_norm",
    cause=CauseKind.UNREDUCED,
)
