"""Partial sums are reduced in bfloat16, in a model that is NaN at normally distributed parameters: log of a scale."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.collectives import Reduce
from benchmarks.mutants.configuration import Configuration, sharded
from benchmarks.mutants.models.two_layers import OUTPUTS, TwoLayers, split_two_layers, two_layer_step
from shardproof.proving.cause import CauseKind


class LogScaled(TwoLayers):
    """The outputs are multiplied by 1 + log of a scale that starts at e."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((OUTPUTS,), 2.7))

    def after(self, output: Tensor) -> Tensor:
        return output * (1 + self.scale.log())


def narrow(x: Tensor) -> Tensor:
    """All-reduce in bfloat16 forward, identity backward."""
    return Reduce.apply(x.bfloat16()).to(x.dtype)


def plant(planted: bool) -> Configuration:
    def parallelize(model: nn.Module, _mesh: object) -> nn.Module:
        model = split_two_layers(model)
        if planted:
            model.leave = narrow
        return model

    return sharded("outputs times the logarithm of a scale", two_layer_step(LogScaled), parallelize, 2)


BUG = Bug(
    id="M65",
    name="bfloat16-reduce",
    phase="N",
    seen_in="pytorch#186998",
    root="*",
    cause=CauseKind.LOWER_DTYPE_COLLECTIVE,
    plant=plant,
)
