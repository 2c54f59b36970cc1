"""The sum of a row-parallel layer is started, and read before it has come."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.configuration import Configuration, sharded
from benchmarks.mutants.models.two_layers import split_two_layers, two_layer_step
from shardproof.proving.cause import CauseKind


def plant(planted: bool) -> Configuration:
    class ReduceLater(torch.autograd.Function):
        """An asynchronous all-reduce forward, identity backward."""

        @staticmethod
        def forward(_ctx: Any, x: Tensor) -> Tensor:
            x = x.clone()
            work = dist.all_reduce(x, async_op=True)
            if not planted:
                work.wait()
            return x * 1

        @staticmethod
        def backward(_ctx: Any, grad: Tensor) -> Tensor:
            return grad

    def parallelize(model: nn.Module, _mesh: object) -> nn.Module:
        model = split_two_layers(model)
        model.leave = ReduceLater.apply
        return model

    return sharded("an all-reduce that is waited for", two_layer_step(), parallelize, 2)


BUG = Bug(
    id="M89",
    name="not-waited-for",
    phase="F",
    seen_in="review: asynchronous collectives",
    root="collectives AllReduce *",
    cause=CauseKind.USED_BEFORE_WAIT,
    plant=plant,
)
