"""Experts in a list, of which those without tokens are passed over; each expert's width is split over the ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.mutants.collectives import Copy, Reduce, own_part
from benchmarks.mutants.models.two_layers import draw
from benchmarks.mutants.steps import adamw
from shardproof.proving.step import Step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch.distributed.device_mesh import DeviceMesh

ROUTES = torch.tensor([0, 1, 3, 3, 0, 1])  # nothing for expert 2


class Expert(nn.Module):
    """Two layers without biases."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(6, 8, bias=False), nn.Linear(8, 6, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.up(x)))


class Experts(nn.Module):
    """Tokens [B, 6] and the number of the expert of each, [B]."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 4)
        self.experts = nn.ModuleList(Expert() for _ in range(4))
        self.scales = [1.0] * 4
        self.split = False

    def forward(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, routes = batch
        h = self.first(x)
        entered = Copy.apply(h) if self.split else h
        y = torch.zeros_like(h)
        for number, expert in enumerate(self.experts):
            rows = (routes == number).nonzero()[:, 0]
            if len(rows):
                y = y.index_add(0, rows, expert(entered[rows]) * self.scales[number])
        return self.last(h + (Reduce.apply(y) if self.split else y))


def split_experts(model: nn.Module, _mesh: DeviceMesh | None = None) -> nn.Module:
    """Columns and rows of every expert."""
    model.split = True
    for expert in model.experts:
        expert.up.weight = nn.Parameter(own_part(expert.up.weight.detach()).clone())
        expert.down.weight = nn.Parameter(own_part(expert.down.weight.detach().mT).mT.clone())
    return model


def expert_step(
    routes: Tensor = ROUTES, optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] = adamw
) -> Step:
    """Two steps with these routes."""
    batch = ((draw(len(routes), 6), routes), draw(len(routes), 4, seed=1))
    return Step(model=Experts, batch=batch, loss=F.mse_loss, optimizer=optimizer, steps=2)
