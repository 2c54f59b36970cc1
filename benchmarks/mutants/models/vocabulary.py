"""An embedding and a linear layer, the embedding's rows split by hand: [B, S] ids to [B, S, 4]."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.mutants.collectives import Reduce
from benchmarks.mutants.models.two_layers import draw
from benchmarks.mutants.steps import adamw
from shardproof.proving.step import Step

if TYPE_CHECKING:
    from collections.abc import Callable

ROWS, FEATURES = 9, 6


class Rows(nn.Embedding):
    """All rows, or `start` and those that follow, zero for ids of other ranks."""

    start: int | None = None
    stop = 0

    def forward(self, ids: Tensor) -> Tensor:
        if self.start is None:
            return super().forward(ids)
        inside = (ids >= self.start) & (ids < self.stop)
        rows = F.embedding((ids - self.start).clamp(0, len(self.weight) - 1), self.weight)
        return Reduce.apply(rows.masked_fill(~inside[..., None], 0.0))


class Words(nn.Module):
    """A table, attention-like mixing with a bias of keys that has no effect, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.keys, self.out = Rows(ROWS, FEATURES), nn.Linear(FEATURES, FEATURES), nn.Linear(FEATURES, 4)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids)
        return self.out((x @ self.keys(x).mT).softmax(-1) @ x)


def split_rows(model: nn.Module, cut: Callable[[Tensor, int, int], tuple[Tensor, int, int]]) -> nn.Module:
    """This rank's rows, and for which ids it answers, as `cut(table, rank, ranks)` says."""
    table, start, stop = cut(model.table.weight.detach(), dist.get_rank(), dist.get_world_size())
    model.table.weight, model.table.start, model.table.stop = nn.Parameter(table.clone()), start, stop
    return model


def padded(table: Tensor, rank: int, ranks: int) -> tuple[Tensor, int, int]:
    """As many rows on each rank; the last ones are zeros."""
    each = -(-len(table) // ranks)
    part = table[rank * each : (rank + 1) * each]
    return F.pad(part, (0, 0, 0, each - len(part))), rank * each, (rank + 1) * each


def words_step(ids: Tensor | None = None) -> Step:
    """Two steps of AdamW with decay, which moves rows that no token hits."""
    ids = torch.tensor([[0, 3, 5, 6, 7, 1]]) if ids is None else ids
    batch = (ids, draw(*ids.shape, 4))
    return Step(model=Words, batch=batch, loss=F.mse_loss, optimizer=adamw, steps=2)


EVERY_ROW = torch.arange(ROWS)[None].clone()
VACUOUS = ("VACUOUS * table.weight*", "VACUOUS * keys.bias*")
