"""The backward of the sequence's all-gather takes a rank's part without summing."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.collectives import gathered, own_part
from shardproof.proving.cause import CauseKind


class GatherSplit(torch.autograd.Function):
    """All-gather forward, split backward."""

    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        return gathered(x)

    @staticmethod
    def backward(_ctx: Any, grad: Tensor) -> Tensor:
        return own_part(grad)


BUG = Bug(
    id="M14",
    name="gather-backward-splits",
    phase="B",
    seen_in="spmd_types mapping table",
    line="gather_sequence",
    change=GatherSplit.apply,
    sequence_parallel=True,
    root="output gradient norm",
    cause=CauseKind.OWN_SHARD_GRADIENT,
)
