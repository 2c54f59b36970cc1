"""Shardings that draw values of their own after they have cut the parameters, as torchtitan does."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from benchmarks.mutants.configuration import Configuration, on_mesh, sharded
from benchmarks.mutants.models.two_layers import OUTPUTS, TwoLayersByModules, draw, two_layer_step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch.distributed.device_mesh import DeviceMesh

WIDTH = 64


class Wide(TwoLayersByModules):
    """Wide enough to tell a spread; initialises itself."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(6, WIDTH), nn.Linear(WIDTH, OUTPUTS)
        self.initialise()

    def initialise(self) -> None:
        """By the fans of the whole layers."""
        with torch.no_grad():
            for layer, fan in ((self.up, 6), (self.down, WIDTH)):
                nn.init.normal_(layer.weight, std=fan**-0.5)
                nn.init.normal_(layer.bias, std=0.02)


def by_plan(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """DTensor draws as one device does, each rank its part."""
    model = parallelize_module(model, mesh, {"up": ColwiseParallel(), "down": RowwiseParallel()})
    model.initialise()
    return model


def from_meta(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Moved to the meta device, cut there, given memory, and drawn."""
    model = parallelize_module(model.to("meta"), mesh, {"up": ColwiseParallel(), "down": RowwiseParallel()})
    model.to_empty(device="cpu")
    model.initialise()
    return model


def fsdp_from_meta(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """FSDP2 of a model on the meta device."""
    model = model.to("meta")
    fully_shard(model.up, mesh=mesh)
    fully_shard(model, mesh=mesh)
    model.to_empty(device="cpu")
    model.initialise()
    return model


def on_each_rank(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Every rank seeds itself and draws the shards that it has; what is whole is drawn alike."""
    model = parallelize_module(model, mesh, {"up": ColwiseParallel(), "down": RowwiseParallel()})
    with torch.no_grad():
        torch.manual_seed(100 + mesh.get_local_rank())
        nn.init.normal_(model.up.weight.to_local(), std=6**-0.5)
        nn.init.normal_(model.up.bias.to_local(), std=0.02)
        nn.init.normal_(model.down.weight.to_local(), std=WIDTH**-0.5)
        torch.manual_seed(99)
        nn.init.normal_(model.down.bias.to_local(), std=0.02)
    return model


OVER_TP: dict[str, Callable[[nn.Module, DeviceMesh], nn.Module]] = {
    "by DTensor": by_plan,
    "from the meta device": from_meta,
    "by each rank": on_each_rank,
}


def configurations() -> Iterator[Configuration]:
    """Each at 2 and 4 ranks."""
    for (name, parallelize), devices in itertools.product(OVER_TP.items(), (2, 4)):
        yield sharded(f"values drawn anew {name}", two_layer_step(Wide), parallelize, devices, draws_anew=True)
    for devices in (2, 4):
        step = two_layer_step(Wide, batch=(draw(8, 6), draw(8, 4, seed=1)))
        yield on_mesh("values drawn anew under FSDP2", step, fsdp_from_meta, {"dp": devices}, draws_anew=True)
