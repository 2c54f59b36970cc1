"""The backward of a row-parallel layer gathers the wrong operand: the output instead of its gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.collectives import gathered, reduce_scattered
from shardproof.proving.cause import CauseKind


class GathersItsOutput(torch.autograd.Function):
    """Reduce-scatter forward; all-gather of the output, not of the gradient, backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        own = reduce_scattered(x)
        ctx.save_for_backward(own)
        return own

    @staticmethod
    def backward(ctx: Any, _grad: Tensor) -> Tensor:
        return gathered(*ctx.saved_tensors)


BUG = Bug(
    id="M13",
    name="reduce-scatter-backward",
    phase="B",
    seen_in="nanotron#172",
    line="scatter_sequence",
    change=GathersItsOutput.apply,
    sequence_parallel=True,
    root="input gradient layers.0.mlp.down",
    cause=CauseKind.OUTPUT_FOR_GRADIENT,
)
