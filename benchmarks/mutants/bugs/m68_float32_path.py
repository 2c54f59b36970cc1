"""In float32 alone, the ranks average what they should sum; exact arithmetic and float64 take the other branch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.collectives import Reduce
from benchmarks.mutants.configuration import Configuration, sharded
from benchmarks.mutants.models.two_layers import split_two_layers, two_layer_step
from shardproof.proving.cause import CauseKind


def plant(planted: bool) -> Configuration:
    def leave(x: Tensor) -> Tensor:
        return Reduce.apply(x / 2) if planted and x.dtype == torch.float32 else Reduce.apply(x)

    def parallelize(model: nn.Module, _mesh: object) -> nn.Module:
        model = split_two_layers(model)
        model.leave = leave
        return model

    return sharded("a branch on the dtype", two_layer_step(), parallelize, 2)


BUG = Bug(
    id="M68",
    name="float32-only-path",
    phase="N",
    seen_in="",
    root="*",
    cause=CauseKind.ONLY_IN_NATIVE_DTYPE,
    plant=plant,
    shown_in=torch.float32,
)
