"""Each rank averages over its own valid tokens, then the averages are averaged."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor

from benchmarks.mutants.block import Sizes
from benchmarks.mutants.bug import Bug
from shardproof.proving.cause import CauseKind


def loss_share(total: Tensor, valid: Tensor) -> Tensor:
    """The rank's own mean, of which the N are averaged."""
    return total / valid / dist.get_world_size()


BUG = Bug(
    id="M31",
    name="local-token-mean",
    phase="B",
    seen_in="Megatron-LM#7452, torchtitan#2206",
    line="loss_share",
    change=loss_share,
    root="loss loss",
    cause=CauseKind.OWN_COUNT,
    sizes=Sizes(smoothing=0.0),
    training="data parallel",
)
