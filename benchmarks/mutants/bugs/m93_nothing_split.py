"""The plan's names match no module: nothing is split, every rank takes the whole step, and all numbers are right."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from torch import nn
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.configuration import Configuration, sharded
from benchmarks.mutants.models.two_layers import TwoLayersByModules, two_layer_step
from shardproof.proving.cause import CauseKind

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


class Block(nn.Module):
    """Two layers under a name."""

    def __init__(self) -> None:
        super().__init__()
        self.block = TwoLayersByModules()

    def forward(self, x: object) -> object:
        return self.block(x)


def plant(planted: bool) -> Configuration:
    def parallelize(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
        path = "blocks" if planted else "block"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch does warn of it, once
            return parallelize_module(model, mesh, {f"{path}.up": ColwiseParallel(), f"{path}.down": RowwiseParallel()})

    return sharded("a plan whose names match", two_layer_step(Block), parallelize, 2)


BUG = Bug(
    id="M93",
    name="nothing-split",
    phase="-",
    seen_in="review: a proof of nothing",
    root="sharding tp",
    cause=CauseKind.NOTHING_SPLIT,
    plant=plant,
    shown_by=lambda: "no number: the whole step is taken on every rank, and nothing that was to be proved is",
)
