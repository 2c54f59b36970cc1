"""Each rank initialises its part by the fan of the part: the spread is larger than one device's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.configuration import Configuration, sharded
from benchmarks.mutants.models.two_layers import OUTPUTS, TwoLayersByModules, two_layer_step
from shardproof.proving.cause import CauseKind

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

WIDTH = 256


class Wide(TwoLayersByModules):
    """Wide enough to tell a spread."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(6, WIDTH), nn.Linear(WIDTH, OUTPUTS)
        initialise(self.down.weight, WIDTH)


def initialise(weight: Tensor, fan: int) -> None:
    nn.init.normal_(weight, std=fan**-0.5)


def plant(planted: bool) -> Configuration:
    def parallelize(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
        model = parallelize_module(model, mesh, {"up": ColwiseParallel(), "down": RowwiseParallel()})
        local = model.down.weight.to_local()
        torch.manual_seed(17 + mesh.get_local_rank())  # each rank draws numbers of its own
        with torch.no_grad():
            initialise(local, local.shape[1] if planted else WIDTH)
        return model

    step = two_layer_step(Wide)
    return sharded("a row-parallel layer that draws its own part", step, parallelize, 2, draws_anew=True)


BUG = Bug(
    id="M94",
    name="fan-of-the-shard",
    phase="I",
    seen_in="Megatron-Bridge#5840",
    root="initial parameter down.weight",
    cause=CauseKind.INITIAL_SPREAD,
    plant=plant,
    shown_by=lambda: f"the standard deviation of down.weight is {2**0.5:.3f} times one device's",
)
