"""An optimizer keeps its moments in 8 bits where a parameter is large enough, and asks the shard's size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn
from torch.distributed.tensor import Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.configuration import Configuration, sharded
from benchmarks.mutants.models.blockwise import Blockwise
from benchmarks.mutants.models.two_layers import draw, two_layer_step

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


def plant(planted: bool) -> Configuration:
    def parallelize(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
        return parallelize_module(model, mesh, {"0": ColwiseParallel(output_layouts=Replicate())})

    step = two_layer_step(
        lambda: nn.Sequential(nn.Linear(6, 8, bias=False)),
        batch=(draw(5, 6), draw(5, 8, seed=1)),
        optimizer=lambda parameters: Blockwise(parameters, by_shard=planted),
    )
    return sharded("moments in blocks, local tensors beside DTensors", step, parallelize, 2)


BUG = Bug(
    id="M104",
    name="threshold-by-shard",
    phase="U",
    seen_in="ao#4912",
    root="optimizer state *",
    unexplained="which elements share a scale is the optimizer's own affair: of its state the values alone are known",
    plant=plant,
)
