"""The sharded norm has no running mean: training is the same, evaluation is not."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.configuration import Configuration, sharded
from benchmarks.mutants.models.two_layers import OUTPUTS, TwoLayers, split_two_layers, two_layer_step
from shardproof.proving.cause import CauseKind


class Centred(nn.Module):
    """Minus the mean over the rows, of which it keeps a running mean."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(OUTPUTS))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(0)
        with torch.no_grad():
            self.running_mean.mul_(0.9).add_(mean, alpha=0.1)
        return x - mean


class Forgetful(nn.Module):
    """The same, and keeps nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


class Normed(TwoLayers):
    """The outputs are centred."""

    def __init__(self) -> None:
        super().__init__()
        self.centred = Centred()

    def after(self, output: Tensor) -> Tensor:
        return self.centred(output)


def plant(planted: bool) -> Configuration:
    def parallelize(model: nn.Module, _mesh: object) -> nn.Module:
        model = split_two_layers(model)
        if planted:
            model.centred = Forgetful()
        return model

    step = two_layer_step(Normed)
    return sharded("outputs centred, with a running mean", step, parallelize, 2, allow=("VACUOUS gradient down.bias",))


BUG = Bug(
    id="M72",
    name="lost-buffer",
    phase="F",
    seen_in="review: nothing passes unseen",
    root="buffer centred.running_mean",
    cause=CauseKind.BUFFER_GONE,
    plant=plant,
)
