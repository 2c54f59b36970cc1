"""Experts each of which lies on one rank; every rank's tokens go to their expert and back by all-to-all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.mutants.models.two_layers import draw
from benchmarks.mutants.steps import sgd
from shardproof.proving.step import Step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from torch.distributed.device_mesh import DeviceMesh

EXPERTS, HIDDEN = 4, 6


class Exchange(torch.autograd.Function):
    """All-to-all of rows with these splits forward, with the splits changed about backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, received: list[int], sent: list[int]) -> Tensor:
        ctx.splits = received, sent
        y = x.new_empty(sum(received), x.shape[1])
        dist.all_to_all_single(y, x.contiguous(), received, sent)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        received, sent = ctx.splits
        y = grad.new_empty(sum(sent), grad.shape[1])
        dist.all_to_all_single(y, grad.contiguous(), sent, received)
        return y, None, None


class Mixture(nn.Module):
    """x [T, 6] and the experts' numbers [T]: each token through its expert, weighted by its gate."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.ranks = nn.Linear(HIDDEN, 1), 1
        self.weights = nn.Parameter(torch.randn(EXPERTS, HIDDEN, HIDDEN) / 2)

    def forward(self, x: Tensor, routes: Tensor) -> Tensor:
        order = routes.argsort(stable=True)
        counts = torch.bincount(routes, minlength=EXPERTS)
        rows = x[order]
        mixed = self.apply_experts(rows, counts.tolist()) if self.ranks == 1 else self.exchanged(rows, counts)
        return x + mixed[order.argsort()] * self.gate(x).sigmoid()

    def apply_experts(self, rows: Tensor, counts: list[int]) -> Tensor:
        return torch.cat([torch.tanh(t @ w) for t, w in zip(rows.split(counts), self.weights, strict=True)])

    def exchanged(self, rows: Tensor, counts: Tensor) -> Tensor:
        theirs = torch.empty_like(counts)
        dist.all_to_all_single(theirs, counts)
        per_rank = theirs.view(self.ranks, -1)
        sent, received = counts.view(self.ranks, -1).sum(1).tolist(), per_rank.sum(1).tolist()
        got = Exchange.apply(rows, received, sent)
        expert = torch.arange(per_rank.shape[1]).repeat(self.ranks).repeat_interleave(per_rank.flatten())
        by_expert = expert.argsort(stable=True)
        done = self.apply_experts(got[by_expert], per_rank.sum(0).tolist())
        return Exchange.apply(done[by_expert.argsort()], sent, received)


class Routed(nn.Module):
    """A layer, experts, a layer; routes come with the batch, so that no rounding turns them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.moe, self.last = nn.Linear(HIDDEN, HIDDEN), Mixture(), nn.Linear(HIDDEN, 4)

    def forward(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        return self.last(self.moe(self.first(batch[0]), batch[1]))


def expert_parallel(*, divided: bool = True) -> Callable[[nn.Module, DeviceMesh], nn.Module]:
    """Along dp each rank has its own tokens and its own experts; `divided`: experts' gradients are averaged too."""

    def parallelize(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
        size, moe = mesh.size(), model.moe
        moe.ranks = size
        moe.weights = nn.Parameter(moe.weights.detach().chunk(size)[mesh.get_local_rank()].clone())

        def average(parameter: nn.Parameter) -> None:
            if parameter is not moe.weights:
                dist.all_reduce(parameter.grad)
            if parameter is not moe.weights or divided:
                parameter.grad.div_(size)

        for parameter in model.parameters():
            parameter.register_post_accumulate_grad_hook(average)
        return model

    return parallelize


def routed_step(
    tokens: int = 12,
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] = sgd,
    routes: Sequence[int] | None = None,
    **settings: Any,
) -> Step:
    """Tokens of which each rank has some for every expert, or with these routes."""
    spread = (torch.arange(tokens) * 3 + torch.arange(tokens) // 5) % EXPERTS
    chosen = spread if routes is None else torch.tensor(routes)
    batch = ((draw(tokens, HIDDEN), chosen), draw(tokens, 4, seed=1))
    return Step(model=Routed, batch=batch, loss=F.mse_loss, optimizer=optimizer, **({"steps": 2} | settings))
