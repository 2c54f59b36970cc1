"""Dropout: of whole activations all ranks draw one mask, of shards each its own."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.mutants.block import Sizes
from benchmarks.mutants.configuration import sharded
from benchmarks.mutants.correct.layers import by_plan, column_row, make_batch
from benchmarks.mutants.lines import Lines
from benchmarks.mutants.sharded import shard
from benchmarks.mutants.steps import adamw, make_step
from shardproof.proving.step import Step

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.mutants.configuration import Configuration


class Dropping(nn.Module):
    """Whole activations are dropped before and after the two layers."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.before, self.after = nn.Dropout(probability), nn.Dropout(probability)
        self.up, self.down = nn.Linear(6, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.down(F.gelu(self.up(self.before(x)))))


def configurations() -> Iterator[Configuration]:
    """By hand with whole and with split sequences, and by PyTorch's styles."""
    for sequence, devices in itertools.product((False, True), (2, 4)):
        sizes = Sizes(heads=4, kv_heads=4, dropout=0.1, batch=3)
        step = make_step(sizes, optimizer=adamw, steps=2)
        shard_by_hand = shard(Lines(), sequence_parallel=sequence)
        yield sharded(f"dropout by hand, {('whole', 'split')[sequence]} sequences", step, shard_by_hand, devices)
    for probability, devices in itertools.product((0.1, 0.5), (2, 4)):
        step = Step(
            model=lambda probability=probability: Dropping(probability),
            batch=make_batch(12),
            loss=F.mse_loss,
            optimizer=adamw,
            steps=2,
        )
        yield sharded(f"dropout of {probability} around an MLP", step, by_plan(column_row), devices)
