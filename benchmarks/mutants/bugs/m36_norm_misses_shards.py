"""The gradient norm counts the shards of one rank only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.training_lines import squares
from shardproof.proving.cause import CauseKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

import torch.distributed as dist


def gradient_norm(sharded: Sequence[Tensor], replicated: Sequence[Tensor]) -> Tensor:
    """Rank 0's, broadcast."""
    norm = squares([*sharded, *replicated]).sqrt()
    dist.broadcast(norm, src=0)
    return norm


BUG = Bug(
    id="M36",
    name="norm-misses-shards",
    phase="U",
    seen_in="DeepSpeed#5411",
    line="gradient_norm",
    change=gradient_norm,
    root="gradient norm gradient norm",
    cause=CauseKind.NORM_MISSES_SHARD,
    training="tensor parallel",
)
