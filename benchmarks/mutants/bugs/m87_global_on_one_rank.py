"""A number in a module's globals is set on rank 0 alone: the broadcast to the others is forgotten."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor, nn

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.configuration import Configuration, sharded
from benchmarks.mutants.models.two_layers import TwoLayers, split_two_layers, two_layer_step
from shardproof.proving.cause import CauseKind

SETTINGS = {"scale": 1.0}
SCALE = 0.5


class Scaled(TwoLayers):
    """One device has its scale written down; the ranks ask the module's globals."""

    def after(self, output: Tensor) -> Tensor:
        return output * (SETTINGS["scale"] if self.split else SCALE)


def plant(planted: bool) -> Configuration:
    SETTINGS["scale"] = 1.0  # as a process starts

    def parallelize(model: nn.Module, _mesh: object) -> nn.Module:
        if not planted or dist.get_rank() == 0:
            SETTINGS["scale"] = SCALE
        return split_two_layers(model)

    return sharded("a scale in a module's globals", two_layer_step(Scaled), parallelize, 2)


BUG = Bug(
    id="M87",
    name="global-on-one-rank",
    phase="F,R",
    seen_in="review: python globals",
    root="output model",
    cause=CauseKind.REPLICAS_DIFFER,
    plant=plant,
)
