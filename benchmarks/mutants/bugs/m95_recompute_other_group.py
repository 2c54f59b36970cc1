"""What is recomputed asks a module global for its group, which has been set to another axis by then."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.configuration import Configuration, on_mesh
from benchmarks.mutants.models.two_layers import TwoLayers, draw, two_layer_step
from shardproof.proving.cause import CauseKind

STATE: dict[str, Any] = {"group": None}


class Reduce(torch.autograd.Function):
    """All-reduce over a group forward, identity backward."""

    @staticmethod
    def forward(_ctx: Any, x: Tensor, group: Any) -> Tensor:
        x = x.clone()
        dist.all_reduce(x, group=group)
        return x

    @staticmethod
    def backward(_ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


class Copy(torch.autograd.Function):
    """Identity forward, all-reduce over a group backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        grad = grad.clone()
        dist.all_reduce(grad, group=ctx.group)
        return grad, None


class Recomputed(TwoLayers):
    """Both layers inside a checkpoint, and once more a nonlinear one behind the reduction."""

    switches = False
    groups: Any = None

    def forward(self, x: Tensor) -> Tensor:
        if not self.split:
            return self.core(x)
        STATE["group"] = self.groups["tp"]
        y = checkpoint(self.core, x, use_reentrant=False)
        if self.switches:
            STATE["group"] = self.groups["dp"]  # for the averages of gradients to come
        return y

    def core(self, x: Tensor) -> Tensor:
        group = STATE["group"]
        x = Copy.apply(x, group) if self.split else x
        y = torch.tanh(self.up(x)) @ self.down.weight.mT
        y = Reduce.apply(y, group) if self.split else y
        return torch.tanh(y) + self.down.bias


def plant(planted: bool) -> Configuration:
    def parallelize(model: nn.Module, mesh: Any) -> nn.Module:
        tp, dp = mesh["tp"], mesh["dp"]
        own = tp.get_local_rank()
        model.split, model.switches = True, planted
        model.groups = {"tp": tp.get_group(), "dp": dp.get_group()}
        model.up.weight, model.up.bias = (
            nn.Parameter(p.detach().chunk(tp.size())[own].clone()) for p in model.up.parameters()
        )
        model.down.weight = nn.Parameter(model.down.weight.detach().chunk(tp.size(), 1)[own].clone())
        for parameter in model.parameters():
            parameter.register_hook(lambda gradient: Reduce.apply(gradient, dp.get_group()) / dp.size())
        return model

    batch = (draw(8, 6), draw(8, 4, seed=1))
    step = two_layer_step(Recomputed, batch=batch)
    return on_mesh("a checkpoint whose group is a module global", step, parallelize, {"dp": 2, "tp": 2})


BUG = Bug(
    id="M95",
    name="recompute-other-group",
    phase="B",
    seen_in="review: recomputation",
    root="*",
    cause=CauseKind.RECOMPUTED_COLLECTIVE,
    plant=plant,
)
