"""A batch norm under data parallelism normalises by each rank's own rows, and its buffers drift apart."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.collectives import all_reduced
from benchmarks.mutants.configuration import Configuration, on_mesh
from benchmarks.mutants.models.two_layers import OUTPUTS, TwoLayers, two_layer_step
from shardproof.proving.cause import CauseKind


class MeanOverRanks(torch.autograd.Function):
    """Mean over ranks, forward and backward."""

    @staticmethod
    def forward(_ctx: object, x: Tensor) -> Tensor:
        return all_reduced(x) / dist.get_world_size()

    @staticmethod
    def backward(_ctx: object, grad: Tensor) -> Tensor:
        return all_reduced(grad) / dist.get_world_size()


class Normed(TwoLayers):
    """The outputs over their root mean square in the batch, of which it keeps a running mean."""

    over_ranks = False

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("running", torch.ones(OUTPUTS))

    def after(self, output: Tensor) -> Tensor:
        squares = output.square().mean(0)
        if self.over_ranks:
            squares = MeanOverRanks.apply(squares)
        with torch.no_grad():
            self.running.mul_(0.9).add_(squares, alpha=0.1)
        return output * (squares + 1e-5).rsqrt()


def plant(planted: bool) -> Configuration:
    def parallelize(model: nn.Module, _mesh: object) -> nn.Module:
        model.over_ranks = not planted
        for parameter in model.parameters():
            parameter.register_hook(lambda gradient: all_reduced(gradient) / dist.get_world_size())
        return model

    return on_mesh("a norm over the batch, its statistics synchronised", two_layer_step(Normed), parallelize, {"dp": 2})


BUG = Bug(
    id="M75",
    name="local-batch-statistics",
    phase="F,R",
    seen_in="SyncBatchNorm's reason",
    root="output model",
    cause=CauseKind.FEATURES_SCALED,
    plant=plant,
)
