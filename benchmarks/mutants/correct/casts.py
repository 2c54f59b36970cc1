"""Casts that change nothing in the model's own dtype, and hooks: collectives move their place, and not their order."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from benchmarks.mutants.configuration import CAST, Configuration, on_mesh
from benchmarks.mutants.models.two_layers import TwoLayersByModules, draw, two_layer_step

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn
    from torch.distributed.device_mesh import DeviceMesh

WHERE = ("before", "between", "after", "before and after", "everywhere")


class Casting(TwoLayersByModules):
    """`.float()` in the places named."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where

    def _cast(self, x: Tensor, place: str) -> Tensor:
        return x.float().to(self.up.weight.dtype) if place in self.where or self.where == "everywhere" else x

    def before(self, x: Any) -> Tensor:
        return self._cast(x, "before")

    def between(self, hidden: Tensor) -> Tensor:
        return self._cast(hidden, "between")

    def after(self, output: Tensor) -> Tensor:
        return output.float() if self.where in ("after", "before and after", "everywhere") else output


def whole(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    return fully_shard(model, mesh=mesh["dp"])


def nested(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    fully_shard(model.up, mesh=mesh["dp"])
    fully_shard(model.down, mesh=mesh["dp"])
    return fully_shard(model, mesh=mesh["dp"])


def hooked(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Hooks that look at what passes, and give it back as it is."""
    model.up.register_forward_hook(lambda _module, _inputs, output: output.to(output.dtype))
    model.down.register_forward_pre_hook(lambda _module, inputs: tuple(x.float().to(x.dtype) for x in inputs))
    model.up.weight.register_hook(lambda gradient: gradient * 1)
    return nested(model, mesh)


def beside_tp(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    model = parallelize_module(model, mesh["tp"], {"up": ColwiseParallel(), "down": RowwiseParallel()})
    return nested(model, mesh)


SHARDINGS = {
    "FSDP2 of the whole": (whole, {"dp": 2}),
    "FSDP2 nested": (nested, {"dp": 2}),
    "FSDP2 nested, hooks": (hooked, {"dp": 3}),
    "FSDP2 and tensor parallel": (beside_tp, {"dp": 2, "tp": 2}),
}


def configurations() -> Iterator[Configuration]:
    """Each place under each sharding."""
    for (name, (parallelize, mesh)), where in itertools.product(SHARDINGS.items(), WHERE):
        batch = (draw(12, 6), draw(12, 4, seed=1))
        step = two_layer_step(lambda where=where: Casting(where), batch=batch)
        yield on_mesh(f"casts {where}, {name}", step, parallelize, mesh, tolerance=CAST)
