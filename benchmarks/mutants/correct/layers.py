"""PyTorch's own styles on two linear layers: activations, layouts between and around them, uneven widths."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.tensor import Replicate, Shard, distribute_module, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    PrepareModuleOutput,
    RowwiseParallel,
    parallelize_module,
)

from benchmarks.mutants.configuration import sharded
from benchmarks.mutants.steps import sgd
from shardproof.proving.step import Step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor.parallel import ParallelStyle

    from benchmarks.mutants.configuration import Configuration

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "squared relu": lambda x: F.relu(x).square(),
    "relu6": F.relu6,
    "leaky relu": F.leaky_relu,
    "elu": F.elu,
    "silu": F.silu,
    "sigmoid": F.sigmoid,
    "tanh": torch.tanh,
    "softplus": F.softplus,
    "mish": F.mish,
    "hardswish": F.hardswish,
    "logsigmoid": F.logsigmoid,
    "none": lambda x: x,
}


class MLP(nn.Module):
    """Two linear layers, 6 features in and 4 out."""

    def __init__(
        self, width: int = 8, *, activation: Callable[[Tensor], Tensor] = F.gelu, bias: bool = True, outputs: int = 4
    ) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(6, width, bias=bias), nn.Linear(width, outputs, bias=bias)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.activation(self.up(x)))


class GatedMLP(nn.Module):
    """down(silu(gate) * up), without biases."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(6, width, bias=False), nn.Linear(6, width, bias=False)
        self.down = nn.Linear(width, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


def make_batch(rows: int = 5, inputs: int = 6, outputs: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(rows, inputs, generator=generator), torch.randn(rows, outputs, generator=generator)


def mlp_step(model: Callable[[], nn.Module] = MLP, *, clip_norm: float | None = 1.0) -> Step:
    return Step(model=model, batch=make_batch(), loss=F.mse_loss, optimizer=sgd, clip_norm=clip_norm, steps=2)


def by_plan(plan: Callable[[], Mapping[str, ParallelStyle]]) -> Callable[[nn.Module, DeviceMesh], nn.Module]:
    """`parallelize_module` with styles made anew for each rank."""

    def parallelize(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
        return parallelize_module(model, mesh, dict(plan()))

    return parallelize


def column_row() -> Mapping[str, ParallelStyle]:
    """Local tensors between, as most write it: the width must divide."""
    return {"up": ColwiseParallel(), "down": RowwiseParallel()}


def column_row_dtensor() -> Mapping[str, ParallelStyle]:
    """The activation between stays a DTensor: a local one would not say how a width that does not divide is cut."""
    return {"up": ColwiseParallel(use_local_output=False), "down": RowwiseParallel()}


PLANS: dict[str, Callable[[], Mapping[str, ParallelStyle]]] = {
    "column, gathered; row, split": lambda: {
        "up": ColwiseParallel(output_layouts=Replicate()),
        "down": RowwiseParallel(input_layouts=Replicate()),
    },
    "column, column, both gathered": lambda: {
        "up": ColwiseParallel(output_layouts=Replicate()),
        "down": ColwiseParallel(output_layouts=Replicate()),
    },
    "row, column": lambda: {
        "up": RowwiseParallel(input_layouts=Replicate()),
        "down": ColwiseParallel(output_layouts=Replicate()),
    },
    "row, row": lambda: {
        "up": RowwiseParallel(input_layouts=Replicate()),
        "down": RowwiseParallel(input_layouts=Replicate()),
    },
    "column only": lambda: {"up": ColwiseParallel(output_layouts=Replicate())},
    "row only": lambda: {"down": RowwiseParallel(input_layouts=Replicate())},
    "row output scattered, then gathered": lambda: {
        "up": ColwiseParallel(use_local_output=False),
        "down": RowwiseParallel(output_layouts=Shard(0), use_local_output=False),
        "": PrepareModuleOutput(output_layouts=Shard(0), desired_output_layouts=Replicate()),
    },
    "rows of the batch gathered": lambda: {
        "": PrepareModuleInput(input_layouts=Replicate(), desired_input_layouts=Shard(0), use_local_output=False),
        "up": ColwiseParallel(input_layouts=Shard(0), use_local_output=False),
        "down": RowwiseParallel(output_layouts=Replicate()),
    },
    "features of the input gathered": lambda: {
        "": PrepareModuleInput(input_layouts=Replicate(), desired_input_layouts=Shard(1), use_local_output=False),
        "up": ColwiseParallel(input_layouts=Shard(1), use_local_output=False),
        "down": RowwiseParallel(output_layouts=Replicate()),
    },
}


def distribute(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """`distribute_module` alone: every parameter cut along its first dim, activations wherever DTensor puts them."""

    def cut(_name: str, module: nn.Module, mesh: DeviceMesh) -> None:
        for name, parameter in list(module.named_parameters(recurse=False)):
            module.register_parameter(name, nn.Parameter(distribute_tensor(parameter, mesh, [Shard(0)])))

    return distribute_module(
        model,
        mesh,
        cut,
        input_fn=lambda _module, inputs, mesh: tuple(distribute_tensor(x, mesh, [Replicate()]) for x in inputs),
        output_fn=lambda _module, output, _mesh: output.full_tensor(),
    )


def configurations() -> Iterator[Configuration]:
    """Of all kinds."""
    for devices in (2, 3, 4, 8):
        # DTensor itself refuses the update of a width below the number of ranks.
        widths = ((8, True), (11, True), (11, False), *(((5, True),) if devices < 5 else ()))
        for width, bias in widths:
            model = partial(MLP, width, bias=bias)
            bare = "" if bias else " without biases"
            yield sharded(f"MLP of width {width}{bare}", mlp_step(model), by_plan(column_row_dtensor), devices)
        plan = {"gate": ColwiseParallel, "up": ColwiseParallel, "down": RowwiseParallel}
        gated = by_plan(lambda plan=plan: {name: style() for name, style in plan.items()})
        yield sharded("gated MLP", mlp_step(partial(GatedMLP, 24)), gated, devices)
        if devices < 5:
            yield sharded("MLP by distribute_module", mlp_step(partial(MLP, 9)), distribute, devices)
    for i, (name, activation) in enumerate(ACTIVATIONS.items()):
        devices = (2, 4)[i % 2]
        yield sharded(f"MLP with {name}", mlp_step(partial(MLP, activation=activation)), by_plan(column_row), devices)
    for name, plan in PLANS.items():
        for devices in (2, 3):
            yield sharded(f"MLP by styles: {name}", mlp_step(partial(MLP, 9)), by_plan(plan), devices)
