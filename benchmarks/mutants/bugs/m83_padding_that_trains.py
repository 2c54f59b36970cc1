"""A row-parallel bias is added before the reduction, zero on all ranks but the first, and trains on all of them."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.configuration import Configuration, sharded
from benchmarks.mutants.models.two_layers import TwoLayers, split_two_layers, two_layer_step
from shardproof.proving.cause import CauseKind


class BiasBefore(TwoLayers):
    """The bias is added to the partial sums of each rank."""

    before_reduction = False

    def forward(self, x: Tensor) -> Tensor:
        if not self.before_reduction:
            return super().forward(x)
        return self.leave(self.down(torch.tanh(self.up(self.enter(x)))))


def plant(planted: bool) -> Configuration:
    def parallelize(model: nn.Module, _mesh: object) -> nn.Module:
        model = split_two_layers(model)
        model.before_reduction = planted
        if planted and dist.get_rank():
            nn.init.zeros_(model.down.bias)
        return model

    return sharded("a bias after the reduction", two_layer_step(BiasBefore), parallelize, 2)


BUG = Bug(
    id="M83",
    name="padding-that-trains",
    phase="U",
    seen_in="review: zeros taken for padding",
    root="initial parameter down.bias",
    cause=CauseKind.ZEROED,
    plant=plant,
)
