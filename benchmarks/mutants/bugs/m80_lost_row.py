"""The last row of the vocabulary is lost: a row of padding stands in its place, and no token of the batch hits it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.configuration import Configuration, sharded
from benchmarks.mutants.models.vocabulary import EVERY_ROW, VACUOUS, padded, split_rows, words_step
from shardproof.proving.cause import CauseKind

if TYPE_CHECKING:
    from torch import Tensor, nn


def plant(planted: bool, ids: Tensor | None = None) -> Configuration:
    def cut(table: Tensor, rank: int, ranks: int) -> tuple[Tensor, int, int]:
        part, start, stop = padded(table, rank, ranks)
        if planted and rank == ranks - 1:
            part = part.clone()
            part[-2] = 0  # the row before the padding
        return part, start, stop

    def parallelize(model: nn.Module, _mesh: object) -> nn.Module:
        return split_rows(model, cut)

    return sharded("rows of a table with one of padding", words_step(ids), parallelize, 2, allow=VACUOUS)


BUG = Bug(
    id="M80",
    name="lost-row",
    phase="I",
    seen_in="flame#42",
    root="initial parameter table.weight",
    cause=CauseKind.LOST,
    plant=plant,
    shown_by=lambda: plant(True, EVERY_ROW),
)
