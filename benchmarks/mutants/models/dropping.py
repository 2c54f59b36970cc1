"""Two split layers with dropout of the whole hidden state, computed again in the backward."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from benchmarks.mutants.collectives import Copy, Reduce
from benchmarks.mutants.models.two_layers import draw, split_two_layers, two_layer_step

if TYPE_CHECKING:
    from shardproof.proving.step import Step

PROBABILITY = 0.25


class Dropping(nn.Module):
    """x [B, 6] to [B, 4]: two layers with dropout around, inside a checkpoint if there are `recompute` settings."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.drop = nn.Linear(6, 6), nn.Dropout(PROBABILITY)
        self.up, self.down, self.last = nn.Linear(6, 8), nn.Linear(8, 4), nn.Linear(4, 4)
        self.split = False
        self.enter = self.leave = lambda x: x
        self.recompute: dict[str, Any] | None = None

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return self.last(self.core(h) if self.recompute is None else checkpoint(self.core, h, **self.recompute))

    def core(self, x: Tensor) -> Tensor:
        hidden = F.gelu(self.up(self.enter(self.drop(x))))
        return self.drop(self.leave(F.linear(hidden, self.down.weight)) + self.down.bias)


def split_dropping(model: nn.Module, **recompute: Any) -> nn.Module:
    """Column and row over all ranks; `recompute` are the settings of the checkpoint."""
    model = split_two_layers(model)
    model.enter, model.leave = Copy.apply, Reduce.apply
    model.recompute = recompute or None
    return model


def dropping_step(rows: int = 16, **settings: Any) -> Step:
    """Rows enough to tell masks apart."""
    batch = (draw(rows, 6), draw(rows, 4, seed=1))
    return two_layer_step(**({"model": Dropping, "batch": batch} | settings))


class RecomputeByHand(torch.autograd.Function):
    """`core(x)` forward; in the backward it is run again, after `before` has put the random state back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, core: Any, restored: bool) -> Tensor:
        ctx.core, ctx.restored, ctx.state = core, restored, torch.get_rng_state()
        ctx.save_for_backward(x)
        with torch.no_grad():
            return core(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        now = torch.get_rng_state()
        if ctx.restored:
            torch.set_rng_state(ctx.state)
        (x,) = ctx.saved_tensors
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            ctx.core(x).backward(grad)
        torch.set_rng_state(now)
        return x.grad, None, None
