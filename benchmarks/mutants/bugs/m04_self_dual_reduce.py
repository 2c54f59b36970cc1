"""An all-reduce whose backward all-reduces too."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.collectives import all_reduced
from shardproof.proving.cause import CauseKind


class ReduceBothWays(torch.autograd.Function):
    """All-reduce forward, all-reduce backward."""

    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        return all_reduced(x)

    @staticmethod
    def backward(_ctx: Any, grad: Tensor) -> Tensor:
        return all_reduced(grad)


BUG = Bug(
    id="M04",
    name="self-dual-reduce",
    phase="B",
    seen_in="spmd_types design notes",
    line="row_output",
    change=ReduceBothWays.apply,
    root="input gradient layers.0.mlp.down",
    cause=CauseKind.SCALED,
    factor=Fraction(2),
)
