"""Rows of a table that trains, which no token of the batch hits, are exchanged on the ranks; decay moves them alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.bugs.m78_frozen_rows_swapped import SWAPPED
from benchmarks.mutants.configuration import Configuration, sharded
from benchmarks.mutants.models.vocabulary import EVERY_ROW, VACUOUS, padded, split_rows, words_step
from shardproof.proving.cause import CauseKind

if TYPE_CHECKING:
    from torch import Tensor, nn


def plant(planted: bool, ids: Tensor | None = None) -> Configuration:
    def cut(table: Tensor, rank: int, ranks: int) -> tuple[Tensor, int, int]:
        part, start, stop = padded(table, rank, ranks)
        return (part[torch.tensor(SWAPPED)] if planted and not rank else part), start, stop

    def parallelize(model: nn.Module, _mesh: object) -> nn.Module:
        return split_rows(model, cut)

    return sharded("a table of rows of which some are not hit", words_step(ids), parallelize, 2, allow=VACUOUS)


BUG = Bug(
    id="M78b",
    name="unhit-rows-swapped",
    phase="I",
    seen_in="review: rows that no token hits",
    root="initial parameter table.weight",
    cause=CauseKind.OUT_OF_PLACE,
    plant=plant,
    shown_by=lambda: plant(True, EVERY_ROW),
)
