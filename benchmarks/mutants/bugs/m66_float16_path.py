"""A path that only float16 takes does not undo its scale; deep gated layers overflow at parameters of order one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.collectives import Copy, Reduce, own_part
from benchmarks.mutants.configuration import Configuration, sharded
from benchmarks.mutants.models.two_layers import draw, two_layer_step
from shardproof.proving.cause import CauseKind

HIDDEN = 48


class Gated(nn.Module):
    """silu(gate) * up, then down; twice, between two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, HIDDEN), nn.Linear(HIDDEN, 4)
        self.gates, self.ups, self.downs = (
            nn.ModuleList(nn.Linear(HIDDEN, HIDDEN, bias=False) for _ in range(2)) for _ in range(3)
        )
        self.split = self.unscaled = False

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        for gate, up, down in zip(self.gates, self.ups, self.downs, strict=True):
            entered = Copy.apply(h) if self.split else h
            y = down(F.silu(gate(entered)) * up(entered))
            y = Reduce.apply(y) if self.split else y
            h = h + (y * 2 if self.split and self.unscaled and y.dtype == torch.float16 else y)
        return self.last(h)


def plant(planted: bool) -> Configuration:
    def parallelize(model: nn.Module, _mesh: object) -> nn.Module:
        model.split, model.unscaled = True, planted
        for layer in (*model.gates, *model.ups):
            layer.weight = nn.Parameter(own_part(layer.weight.detach()).clone())
        for layer in model.downs:
            layer.weight = nn.Parameter(own_part(layer.weight.detach().mT).mT.clone())
        return model

    batch = (draw(6, 6).half(), draw(6, 4, seed=1).half())
    step = two_layer_step(lambda: Gated().half(), batch=batch)
    return sharded("gated layers in float16", step, parallelize, 2)


BUG = Bug(
    id="M66",
    name="float16-only-path",
    phase="N",
    seen_in="review: numbers fall silent",
    root="*",
    cause=CauseKind.ONLY_IN_NATIVE_DTYPE,
    plant=plant,
    shown_in=torch.float16,
)
