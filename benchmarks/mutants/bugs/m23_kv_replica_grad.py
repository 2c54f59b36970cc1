"""Fewer KV heads than ranks: ranks that hold the same one keep the gradient of their own queries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.mutants.bug import Bug
from shardproof.proving.cause import CauseKind

if TYPE_CHECKING:
    from torch import Tensor


def replica_weight(weight: Tensor, _replicas: int) -> Tensor:
    """The weight itself."""
    return weight


BUG = Bug(
    id="M23",
    name="kv-replica-grad",
    phase="B,R",
    seen_in="bigcode Megatron-LM#11",
    line="replica_weight",
    change=replica_weight,
    devices=4,
    root="gradient layers.0.attention.qkv.weight",
    cause=CauseKind.MISSING_ALL_REDUCE,
)
