"""The bias is added to shards of the sequence, and its gradient is not summed over them."""

from __future__ import annotations

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.lines import unchanged
from shardproof.proving.cause import CauseKind

BUG = Bug(
    id="M12",
    name="sequence-bias-grad",
    phase="B,R",
    seen_in="Megatron-LM PR#236",
    line="sequence_bias",
    change=unchanged,
    sequence_parallel=True,
    root="gradient layers.0.attention.out.bias",
    cause=CauseKind.MISSING_ALL_REDUCE,
)
