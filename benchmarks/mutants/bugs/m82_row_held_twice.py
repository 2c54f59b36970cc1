"""The offset is rounded down where the size is rounded up: row 4 is held, and looked up, on both ranks."""

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
        if not planted:
            return padded(table, rank, ranks)
        each, start = -(-len(table) // ranks), rank * (len(table) // ranks)
        return table[start : start + each], start, start + each

    def parallelize(model: nn.Module, _mesh: object) -> nn.Module:
        return split_rows(model, cut)

    return sharded("rows of a table, rounded up", words_step(ids), parallelize, 2, allow=VACUOUS)


BUG = Bug(
    id="M82",
    name="row-held-twice",
    phase="I",
    seen_in="pytorch#144109",
    root="initial parameter table.weight",
    cause=CauseKind.HELD_TWICE,
    plant=plant,
    shown_by=lambda: plant(True, EVERY_ROW),
)
