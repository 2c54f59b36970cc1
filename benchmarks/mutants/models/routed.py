"""A mixture of experts with a learned router, on one device; `dispatch.py` has what ranks do otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.mutants.lines import unchanged
from benchmarks.mutants.models.two_layers import draw
from benchmarks.mutants.steps import sgd
from shardproof.proving.step import Step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

HIDDEN, WIDTH, OUTPUTS = 8, 12, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """What a mixture has.

    Attributes:
        experts: how many.
        chosen: how many each token goes to.
        capacity: how many tokens an expert takes, of all ranks together, the first ones; None: all.
        grouped: products of experts by `F.grouped_mm`, not in a loop.
        shared: an expert that every token goes to.
        balance: factor of the loss that balances the experts' loads; 0: none.
        injected: that loss is no part of the loss: an autograd function adds its gradient.
        z: factor of the mean square of the router's log-sum-exp; 0: none.
    """

    experts: int = 4
    chosen: int = 2
    capacity: int | None = None
    grouped: bool = False
    shared: bool = False
    balance: float = 0.0
    injected: bool = False
    z: float = 0.0


class Experts(nn.Module):
    """Two layers for each expert."""

    def __init__(self, mixture: Mixture) -> None:
        super().__init__()
        self.grouped = mixture.grouped
        self.up = nn.Parameter(torch.randn(mixture.experts, HIDDEN, WIDTH) / 3)
        self.down = nn.Parameter(torch.randn(mixture.experts, WIDTH, HIDDEN) / 3)

    def forward(self, rows: Tensor, counts: Tensor) -> Tensor:
        """Rows [P, h] in the order of their experts, of which each has as many as `counts` says."""
        if self.grouped:
            ends = counts.cumsum(0).int()
            return F.grouped_mm(torch.tanh(F.grouped_mm(rows, self.up, offs=ends)), self.down, offs=ends)
        parts = zip(rows.split(counts.tolist()), self.up, self.down, strict=True)
        return torch.cat([torch.tanh(part @ up) @ down for part, up, down in parts])


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """Which experts the tokens of a rank go to.

    Attributes:
        ids: [T, k].
        weights: [T, k], with the gradient of the router.
    """

    ids: Tensor
    weights: Tensor


class Routed(nn.Module):
    """A layer, a mixture, a layer."""

    def __init__(self, mixture: Mixture) -> None:
        super().__init__()
        self.mixture = mixture
        self.first, self.last = nn.Linear(HIDDEN, HIDDEN), nn.Linear(HIDDEN, OUTPUTS)
        self.router = nn.Linear(HIDDEN, mixture.experts, bias=False)
        self.experts = Experts(mixture)
        self.shared = nn.Linear(HIDDEN, HIDDEN) if mixture.shared else None
        # What a rank does otherwise than one device.
        self.dispatch: Callable[[Routed, Tensor, Chosen], Tensor] = run_experts
        self.sum_counts: Callable[[Tensor], Tensor] = unchanged
        self.counts_before: Callable[[Tensor], Tensor] = torch.zeros_like
        self.auxiliary_scale = 1.0

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """X [T, h] to [T, outputs], and the auxiliary losses."""
        h = self.first(x)
        logits = self.router(h)
        weights, ids = logits.softmax(-1).topk(self.mixture.chosen)
        chosen = Chosen(ids=ids, weights=weights)
        losses = self.auxiliary(logits, ids)
        if self.mixture.injected:
            h, losses = Inject.apply(h, losses, self.auxiliary_scale), losses.detach() * 0
        y = h + self.dispatch(self, h, chosen)
        return self.last(y if self.shared is None else y + self.shared(h)), losses

    def auxiliary(self, logits: Tensor, ids: Tensor) -> Tensor:
        """The load-balancing loss, E * sum of (share of the tokens) * (mean probability), and the z-loss."""
        found = logits.new_zeros(())
        experts = self.mixture.experts
        if self.mixture.balance:
            counts = self.sum_counts(torch.bincount(ids.flatten(), minlength=experts))
            shares = counts / counts.sum()
            found = found + self.mixture.balance * experts * (shares * logits.softmax(-1).mean(0)).sum()
        if self.mixture.z:
            found = found + self.mixture.z * logits.logsumexp(-1).square().mean()
        return found


def run_experts(model: Routed, x: Tensor, chosen: Chosen) -> Tensor:
    """On one device: all pairs of a token and an expert, in the order of their experts."""
    pairs = kept_pairs(model, chosen)
    order = chosen.ids.flatten()[pairs].argsort(stable=True)
    pairs = pairs[order]
    counts = torch.bincount(chosen.ids.flatten()[pairs], minlength=model.mixture.experts)
    rows = model.experts(x[pairs // model.mixture.chosen], counts)
    return add_up(x, rows, pairs, chosen)


def kept_pairs(model: Routed, chosen: Chosen) -> Tensor:
    """The numbers of the pairs that their experts have room for, in the order of the tokens of all ranks."""
    ids = chosen.ids.flatten()
    numbers = torch.arange(len(ids))
    return numbers if model.mixture.capacity is None else numbers[positions(model, ids) < model.mixture.capacity]


def positions(model: Routed, ids: Tensor) -> Tensor:
    """How many pairs of all ranks go to the same expert before each."""
    among = F.one_hot(ids, model.mixture.experts)
    before = model.counts_before(among.sum(0))
    return (among.cumsum(0) - 1).gather(1, ids[:, None])[:, 0] + before[ids]


def add_up(x: Tensor, rows: Tensor, pairs: Tensor, chosen: Chosen) -> Tensor:
    """Rows of pairs, weighted and summed for each token."""
    weighted = rows * chosen.weights.flatten()[pairs, None]
    return torch.zeros_like(x).index_add(0, pairs // chosen.ids.shape[1], weighted)


class Inject(torch.autograd.Function):
    """x forward; backward the gradient of a loss too, which is no part of the step's loss."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, loss: Tensor, scale: float) -> Tensor:
        ctx.scale, ctx.like = scale, loss.detach()
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        return grad, torch.full_like(ctx.like, ctx.scale), None


def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The mean of the squares, and the auxiliary losses."""
    output, losses = model(batch[0])
    return F.mse_loss(output, batch[1]) + losses


def mixture_step(
    mixture: Mixture,
    tokens: int = 32,
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] = sgd,
    **settings: Any,
) -> Step:
    """One step on these many tokens."""
    batch = (draw(tokens, HIDDEN), draw(tokens, OUTPUTS, seed=1))
    return Step(
        model=lambda: Routed(mixture), batch=batch, forward=loss_of, optimizer=optimizer, **({"steps": 1} | settings)
    )
