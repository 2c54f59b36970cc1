"""Under sequence parallelism each rank keeps the norm weight's gradient of its own tokens."""

from __future__ import annotations

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.lines import unchanged
from shardproof.proving.cause import CauseKind

BUG = Bug(
    id="M05",
    name="norm-grad-unsynced",
    phase="B,R",
    seen_in="Megatron-LM#1446, gpt-neox#1257",
    line="sequence_norm_weight",
    change=unchanged,
    sequence_parallel=True,
    root="gradient norm.weight",
    cause=CauseKind.MISSING_ALL_REDUCE,
)
