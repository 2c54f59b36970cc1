"""all_reduce(grad.contiguous()): where grad is not contiguous, the sum goes to a copy that nobody keeps."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from benchmarks.mutants.bug import Bug
from shardproof.proving.cause import CauseKind


class CopyDropped(torch.autograd.Function):
    """Identity forward, all-reduce backward of what may be a copy."""

    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(_ctx: Any, grad: Tensor) -> Tensor:
        dist.all_reduce(grad.contiguous())
        return grad


BUG = Bug(
    id="M16",
    name="dropped-contiguous",
    phase="B",
    seen_in="SkyRL#1886",
    line="head_input",
    change=CopyDropped.apply,
    root="output gradient norm",
    cause=CauseKind.UNREDUCED,
)
