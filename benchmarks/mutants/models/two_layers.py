"""Two linear layers split by column and row, with plain tensors and hand-written collectives: where small bugs live."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.mutants.collectives import Copy, Reduce, own_part
from benchmarks.mutants.lines import unchanged
from benchmarks.mutants.steps import sgd
from shardproof.proving.step import Step

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.distributed.device_mesh import DeviceMesh

INPUTS, WIDTH, OUTPUTS, ROWS = 6, 8, 4, 6


class TwoLayers(nn.Module):
    """x [B, 6] to [B, 4]; what stands between and after the layers is for subclasses to change."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(INPUTS, WIDTH), nn.Linear(WIDTH, OUTPUTS)
        self.split = False
        self.enter: Callable[[Tensor], Tensor] = unchanged
        self.leave: Callable[[Tensor], Tensor] = unchanged

    def forward(self, x: Any) -> Tensor:
        hidden = self.between(torch.tanh(self.up(self.enter(self.before(x)))))
        return self.after(self.leave(F.linear(hidden, self.down.weight)) + self.down.bias)

    def before(self, x: Any) -> Tensor:
        """Inputs to what the first layer gets, the same on all ranks."""
        return x

    def between(self, hidden: Tensor) -> Tensor:
        """[B, width], or this rank's part of the width."""
        return hidden

    def after(self, output: Tensor) -> Tensor:
        """[B, 4], the same on all ranks."""
        return output


class TwoLayersByModules(TwoLayers):
    """By its modules' own forwards, so that a plan for these can split it."""

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.down(self.between(torch.tanh(self.up(self.before(x))))))


def split_two_layers(model: nn.Module, _mesh: DeviceMesh | None = None) -> nn.Module:
    """Column and row over all ranks."""
    model.split, model.enter, model.leave = True, Copy.apply, Reduce.apply
    model.up.weight, model.up.bias = (nn.Parameter(own_part(p.detach()).clone()) for p in model.up.parameters())
    model.down.weight = nn.Parameter(own_part(model.down.weight.detach().mT).mT.clone())
    return model


def own_features(x: Tensor) -> Tensor:
    """This rank's part of the last dim."""
    return x.chunk(dist.get_world_size(), -1)[dist.get_rank()]


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers, the same for the same seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def two_layer_step(model: Callable[[], nn.Module] = TwoLayers, **settings: Any) -> Step:
    """Two steps of gradient descent, or as the settings say."""
    batch = (draw(ROWS, INPUTS), draw(ROWS, OUTPUTS, seed=1))
    return Step(**({"model": model, "batch": batch, "loss": F.mse_loss, "optimizer": sgd, "steps": 2} | settings))
