"""Rank and group in places that every layer can reach: module globals, class attributes, a manager, a closure."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.mutants.configuration import Configuration, on_mesh, sharded
from benchmarks.mutants.models.two_layers import TwoLayers, draw, two_layer_step
from benchmarks.mutants.steps import MORE_OPTIMIZERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch.distributed.device_mesh import DeviceMesh

# As fairscale and Megatron have it: numbers and a group that the process sets once.
RANK: int = -1
GROUP: Any = None
STATE: dict[str, Any] = {}


class Manager:
    """As picotron has it: one object whose attributes are set."""

    rank: ClassVar[int] = -1
    group: ClassVar[Any] = None


MANAGER = Manager()


def in_globals(mesh: DeviceMesh) -> None:
    global GROUP, RANK
    RANK, GROUP = mesh.get_local_rank(), mesh.get_group()


def in_a_dict(mesh: DeviceMesh) -> None:
    STATE.update(rank=mesh.get_local_rank(), group=mesh.get_group())


def in_the_class(mesh: DeviceMesh) -> None:
    Manager.rank, Manager.group = mesh.get_local_rank(), mesh.get_group()


def in_an_object(mesh: DeviceMesh) -> None:
    MANAGER.__dict__.update(own_rank=mesh.get_local_rank(), own_group=mesh.get_group())


PLACES: dict[str, tuple[Callable[[DeviceMesh], None], Callable[[], tuple[int, Any]]]] = {
    "a module's globals": (in_globals, lambda: (RANK, GROUP)),
    "a dict in a module's globals": (in_a_dict, lambda: (STATE["rank"], STATE["group"])),
    "attributes of a class": (in_the_class, lambda: (Manager.rank, Manager.group)),
    "attributes of one object": (in_an_object, lambda: (MANAGER.own_rank, MANAGER.own_group)),  # type: ignore[attr-defined]
}


class Asking(TwoLayers):
    """Each forward asks where it is; its weights are whole, and it takes its part of them."""

    asked: Callable[[], tuple[int, Any]] | None = None
    ranks = 1

    def forward(self, x: Tensor) -> Tensor:
        if self.asked is None:
            return super().forward(x)
        rank, group = self.asked()
        hidden = torch.tanh(F.linear(Copy.apply(x, group), self.up.weight, self.up.bias))
        width = self.down.weight.shape[1] // self.ranks
        own = self.down.weight[:, rank * width : (rank + 1) * width]
        return Reduce.apply(F.linear(hidden, Partial.apply(own, group)), group) + self.down.bias


class Reduce(torch.autograd.Function):
    """All-reduce forward, identity backward."""

    @staticmethod
    def forward(_ctx: Any, x: Tensor, group: Any) -> Tensor:
        x = x.clone()
        dist.all_reduce(x, group=group)
        return x

    @staticmethod
    def backward(_ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


class Copy(torch.autograd.Function):
    """Identity forward, all-reduce backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        grad = grad.clone()
        dist.all_reduce(grad, group=ctx.group)
        return grad, None


class Partial(torch.autograd.Function):
    """Identity both ways: the whole weight's gradient is summed in a hook."""

    @staticmethod
    def forward(_ctx: Any, x: Tensor, _group: Any) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(_ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


def split(put: Callable[[DeviceMesh], None], asked: Callable[[], tuple[int, Any]]) -> Callable[..., nn.Module]:
    """The first layer by its outputs; the second one whole, used in part."""

    def parallelize(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
        own = mesh["tp"]
        put(own)
        rank, group = asked()
        model.asked, model.ranks = asked, own.size()
        model.up.weight, model.up.bias = (
            nn.Parameter(p.detach().chunk(own.size())[rank].clone()) for p in model.up.parameters()
        )
        model.down.weight.register_hook(lambda gradient: Reduce.apply(gradient, group))
        if "dp" in (mesh.mesh_dim_names or ()):
            along = mesh["dp"].get_group()
            for parameter in model.parameters():
                parameter.register_hook(lambda gradient: Reduce.apply(gradient, along) / mesh["dp"].size())
        return model

    return parallelize


def configurations() -> Iterator[Configuration]:
    """Each place on one axis of 2 and 4 ranks, and beside a data axis."""
    optimizers = itertools.cycle(("AdamW", "SGD", "momentum"))
    for name, (put, asked) in PLACES.items():
        for devices in (2, 4):
            optimizer = next(optimizers)
            step = two_layer_step(Asking, optimizer=MORE_OPTIMIZERS[optimizer])
            yield sharded(f"rank and group in {name}, {optimizer}", step, split(put, asked), devices)
        step = two_layer_step(Asking, batch=(draw(8, 6), draw(8, 4, seed=1)))
        yield on_mesh(f"rank and group in {name}", step, split(put, asked), {"dp": 2, "tp": 2})
