"""Sequences split in zigzag over the ranks: rank r has parts r and 2N - 1 - r; keys and values are gathered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.mutants.collectives import all_reduced
from benchmarks.mutants.models.training import load
from benchmarks.mutants.steps import adamw
from shardproof.proving.step import Step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

HIDDEN, VOCABULARY, LENGTH, ROWS, IGNORED = 6, 7, 8, 2, -100


def zigzag(ranks: int, rank: int, length: int = LENGTH) -> Tensor:
    """Positions of this rank's tokens."""
    parts = torch.arange(length).chunk(2 * ranks)
    return torch.cat([parts[rank], parts[2 * ranks - 1 - rank]])


def contiguous(ranks: int, rank: int, length: int = LENGTH) -> Tensor:
    """Positions of this rank's tokens, without zigzag."""
    return torch.arange(length).chunk(ranks)[rank]


class GatherInOrder(torch.autograd.Function):
    """All ranks' tokens in their order forward; backward the sum over ranks of this rank's tokens."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Callable[..., Tensor]) -> Tensor:
        size = dist.get_world_size()
        ctx.own = order(size, dist.get_rank())
        parts = [torch.empty_like(x) for _ in range(size)]
        dist.all_gather(parts, x.contiguous())
        whole = x.new_zeros(x.shape[0], LENGTH, x.shape[2])
        for rank, part in enumerate(parts):
            whole[:, order(size, rank)] = part
        return whole

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return all_reduced(grad)[:, ctx.own], None


class Attending(nn.Module):
    """One attention between a table and a head; `order` is None on one device."""

    order: Callable[..., Tensor] | None = None

    def __init__(self) -> None:
        super().__init__()
        self.table, self.q = nn.Embedding(VOCABULARY, HIDDEN), nn.Linear(HIDDEN, HIDDEN)
        self.kv, self.head = nn.Linear(HIDDEN, 2 * HIDDEN, bias=False), nn.Linear(HIDDEN, VOCABULARY)

    def forward(self, ids: Tensor, places: Tensor) -> Tensor:
        x = self.table(ids)
        kv = self.kv(x)
        k, v = (kv if self.order is None else GatherInOrder.apply(kv, self.order)).chunk(2, -1)
        scores = (self.q(x) @ k.mT * HIDDEN**-0.5).masked_fill(torch.arange(LENGTH) > places[:, None], float("-inf"))
        return self.head(x + scores.softmax(-1) @ v)


def shifted(ids: Tensor) -> Tensor:
    """The next token of each; the last has none."""
    return F.pad(ids[:, 1:], (0, 1), value=IGNORED)


def whole_loss(model: nn.Module, ids: Tensor) -> Tensor:
    return F.cross_entropy(model(ids, torch.arange(LENGTH)).flatten(0, 1), shifted(ids).flatten())


def zigzag_training(
    order: Callable[..., Tensor],
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] = adamw,
    *,
    labels: Callable[[Tensor, Tensor], Tensor] = lambda ids, own: shifted(ids)[:, own],
) -> Callable[[Any], None]:
    """Every rank has its tokens of every row; `labels(ids, own)` are those of these tokens."""

    def train(run: Any) -> None:
        model = load(Attending(), run)
        model.order = order
        own = order(run.size, run.rank)
        stepper = optimizer(model.parameters())
        for ids in run.batches():
            targets = labels(ids, own)
            count = all_reduced((targets != IGNORED).sum())
            stepper.zero_grad()
            total = F.cross_entropy(model(ids[:, own], own).flatten(0, 1), targets.flatten(), reduction="sum")
            loss = total / count
            run.record_loss(all_reduced(loss))
            loss.backward()
            for parameter in model.parameters():
                dist.all_reduce(parameter.grad)
            run.record_gradients()
            stepper.step()
            run.record_update(stepper)

    return train


def zigzag_step(optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] = adamw, steps: int = 2) -> Step:
    """On one device."""
    ids = torch.randint(0, VOCABULARY, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0))
    return Step(model=Attending, batch=ids, forward=whole_loss, optimizer=optimizer, steps=steps)
