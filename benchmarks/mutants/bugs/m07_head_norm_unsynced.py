"""A norm that all heads share gets the gradient of each rank's heads only."""

from __future__ import annotations

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.lines import unchanged
from shardproof.proving.cause import CauseKind

BUG = Bug(
    id="M07",
    name="head-norm-unsynced",
    phase="B,R",
    seen_in="NeMo-RL#3716, Megatron-LM#7452",
    line="head_norm_weight",
    change=unchanged,
    root="gradient layers.0.attention.q_norm.weight",
    cause=CauseKind.MISSING_ALL_REDUCE,
)
