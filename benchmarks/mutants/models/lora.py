"""Frozen linear layers with low-rank adapters beside them, split as Megatron's are. x is [S, B, 8]."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.mutants.collectives import Copy, Gather, Reduce, ReduceScatter, own_part
from benchmarks.mutants.lines import unchanged
from benchmarks.mutants.models.two_layers import draw
from benchmarks.mutants.steps import adamw
from shardproof.proving.step import Step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from torch.distributed.device_mesh import DeviceMesh

HIDDEN, RANK, TOKENS = 8, 2, 8


class Adapted(nn.Module):
    """A frozen linear layer, and B A x beside it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.base = nn.Linear(inputs, outputs, bias=False).requires_grad_(False)
        self.A, self.B = nn.Linear(inputs, RANK, bias=False), nn.Linear(RANK, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.B(self.A(x))


class AdaptedMLP(nn.Module):
    """up, silu, down, with adapters; a trained last layer. The output is gathered if sequences are split."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.last = Adapted(HIDDEN, 2 * HIDDEN), Adapted(2 * HIDDEN, HIDDEN), nn.Linear(HIDDEN, 4)
        self.enter: Callable[[Tensor], Tensor] = unchanged
        self.leave: Callable[[Tensor], Tensor] = unchanged
        self.finish: Callable[[Tensor], Tensor] = unchanged

    def forward(self, x: Tensor) -> Tensor:
        h = F.silu(self.up(self.enter(x)))
        low = self.leave(self.down.A(h))
        y = self.leave(self.down.base(h)) + self.down.B(low)
        return self.finish(self.last(y))


def split_adapters(model: nn.Module, _mesh: DeviceMesh | None = None, *, sequence: bool = False) -> nn.Module:
    """Up by columns, down by rows; A of up and B of down are whole, and seen in part."""
    model.enter = Copy.apply
    model.leave = ReduceScatter.apply if sequence else Reduce.apply
    for layer in (model.up.base, model.up.B):
        layer.weight = _kept(layer.weight, own_part(layer.weight.detach()))
    for layer in (model.down.base, model.down.A):
        layer.weight = _kept(layer.weight, own_part(layer.weight.detach().mT).mT)
    model.up.A.weight.register_hook(_summed)  # each rank sees its own columns of B
    if sequence:
        for parameter in (model.down.B.weight, *model.last.parameters()):
            parameter.register_hook(_summed)  # each rank sees its own tokens
        model.finish = GatherCut.apply
    return model


class GatherCut(torch.autograd.Function):
    """All-gather along dim 0 forward; this rank's part backward: what follows is the same on all ranks."""

    @staticmethod
    def forward(_ctx: object, x: Tensor) -> Tensor:
        return Gather.apply(x)

    @staticmethod
    def backward(_ctx: object, grad: Tensor) -> Tensor:
        return own_part(grad).contiguous()


def _summed(gradient: Tensor) -> Tensor:
    return Copy.backward(None, gradient)


def _kept(whole: nn.Parameter, part: Tensor) -> nn.Parameter:
    return nn.Parameter(part.contiguous().clone(), requires_grad=whole.requires_grad)


def of_trained(
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
) -> Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]:
    """The optimizer of the parameters that are not frozen."""
    return lambda parameters: optimizer([p for p in parameters if p.requires_grad])


def lora_step(
    dtype: torch.dtype = torch.float32,
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] = adamw,
    **settings: Mapping[str, object],
) -> Step:
    """Two steps."""
    batch = tuple(x.to(dtype) for x in (draw(TOKENS, 2, HIDDEN), draw(TOKENS, 2, 4, seed=1)))
    step = {"model": lambda: AdaptedMLP().to(dtype), "batch": batch, "loss": F.mse_loss, "steps": 2} | settings
    return Step(optimizer=of_trained(optimizer), **step)
