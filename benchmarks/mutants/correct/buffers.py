"""Buffers that the step changes: running statistics, counters, biases of a routing, averages of parameters."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn

from benchmarks.mutants.collectives import all_reduced
from benchmarks.mutants.configuration import Configuration, on_mesh, sharded
from benchmarks.mutants.models.two_layers import OUTPUTS, ROWS, TwoLayers, draw, split_two_layers, two_layer_step
from benchmarks.mutants.steps import MORE_OPTIMIZERS

if TYPE_CHECKING:
    from collections.abc import Iterator


class RunningMean(TwoLayers):
    """A running mean of the outputs, added to them."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("running", torch.zeros(OUTPUTS))

    def after(self, output: Tensor) -> Tensor:
        self.running = 0.9 * self.running + 0.1 * output.detach().mean(0)
        return output + self.running


class Counting(TwoLayers):
    """Counts steps and rows in integers, and says in a boolean that it has begun."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.register_buffer("rows", torch.zeros(2, dtype=torch.int32))
        self.register_buffer("begun", torch.zeros((), dtype=torch.bool))

    def before(self, x: Tensor) -> Tensor:
        self.steps += 1
        self.rows += torch.tensor([len(x), x.shape[-1]], dtype=torch.int32)
        self.begun.fill_(value=True)
        return x


class BiasedRouting(TwoLayers):
    """A bias of scores, zero at first, moved by how far the counts of a fixed routing are from even."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("bias", torch.zeros(OUTPUTS))

    def after(self, output: Tensor) -> Tensor:
        counts = torch.bincount(torch.tensor([0, 1, 1, 3, 1, 0]), minlength=OUTPUTS).to(output.dtype)
        mixed = (output + self.bias).sigmoid()
        self.bias = self.bias + 0.01 * (ROWS / OUTPUTS - counts)
        return mixed


class AverageOfOutputs(TwoLayers):
    """An average of the bias over the steps, which nothing reads."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("average", torch.zeros(OUTPUTS))

    def after(self, output: Tensor) -> Tensor:
        with torch.no_grad():
            self.average.lerp_(self.down.bias, 0.25)
        return output


class Normed(TwoLayers):
    """A batch norm of the outputs, which all ranks have alike."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(OUTPUTS)

    def after(self, output: Tensor) -> Tensor:
        return self.norm(output)


class FrozenNorm(Normed):
    """A batch norm that normalises by its buffers."""

    def after(self, output: Tensor) -> Tensor:
        return self.norm.eval()(output)


class NotKept(TwoLayers):
    """A table in a buffer that no checkpoint holds."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", draw(OUTPUTS, seed=5), persistent=False)

    def after(self, output: Tensor) -> Tensor:
        return output * self.table


class Synchronised(TwoLayers):
    """The mean of the squares over all ranks' rows, and a running one, under data parallelism."""

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


class MeanOverRanks(torch.autograd.Function):
    """Mean over ranks, forward and backward."""

    @staticmethod
    def forward(_ctx: object, x: Tensor) -> Tensor:
        return all_reduced(x) / dist.get_world_size()

    @staticmethod
    def backward(_ctx: object, grad: Tensor) -> Tensor:
        return all_reduced(grad) / dist.get_world_size()


MODELS = (RunningMean, Counting, BiasedRouting, AverageOfOutputs, Normed, FrozenNorm, NotKept)
# A bias in front of a norm over the batch has no gradient.
ALLOWED = {Normed: ("VACUOUS * down.bias*",)}


def configurations() -> Iterator[Configuration]:
    """Each over tp at 2 and 4 ranks; synchronised statistics over dp."""
    optimizers = itertools.cycle(("AdamW", "SGD", "momentum"))
    for model, devices in itertools.product(MODELS, (2, 4)):
        optimizer = next(optimizers)
        step = two_layer_step(model, optimizer=MORE_OPTIMIZERS[optimizer], steps=3)
        allow = ALLOWED.get(model, ())
        words = f"buffers: {model.__name__}, {optimizer}"
        yield sharded(words, step, split_two_layers, devices, allow=allow)
    for devices in (2, 3):
        step = two_layer_step(Synchronised)
        yield on_mesh("buffers: Synchronised", step, synchronise, {"dp": devices})


def synchronise(model: nn.Module, _mesh: object) -> nn.Module:
    model.over_ranks = True
    for parameter in model.parameters():
        parameter.register_hook(lambda gradient: all_reduced(gradient) / dist.get_world_size())
    return model
