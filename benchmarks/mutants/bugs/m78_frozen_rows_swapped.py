"""A frozen table's rows that no token of the batch hits are in another order on the ranks."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.configuration import Configuration, sharded
from benchmarks.mutants.models.lora import of_trained
from benchmarks.mutants.models.vocabulary import EVERY_ROW, VACUOUS, Words, padded, split_rows, words_step
from benchmarks.mutants.steps import adamw
from shardproof.proving.cause import CauseKind

SWAPPED = [0, 1, 4, 3, 2]  # rows 2 and 4, which no token hits


def plant(planted: bool, ids: Tensor | None = None) -> Configuration:
    def cut(table: Tensor, rank: int, ranks: int) -> tuple[Tensor, int, int]:
        part, start, stop = padded(table, rank, ranks)
        return (part[torch.tensor(SWAPPED)] if planted and not rank else part), start, stop

    def build() -> nn.Module:
        model = Words()
        model.table.requires_grad_(False)
        return model

    def parallelize(model: nn.Module, _mesh: object) -> nn.Module:
        model = split_rows(model, cut)
        model.table.requires_grad_(False)
        return model

    step = replace(words_step(ids), model=build, optimizer=of_trained(adamw))
    return sharded("a frozen table of rows", step, parallelize, 2, allow=VACUOUS)


BUG = Bug(
    id="M78",
    name="frozen-rows-swapped",
    phase="F",
    seen_in="review: frozen parameters",
    root="initial parameter table.weight",
    cause=CauseKind.OUT_OF_PLACE,
    plant=plant,
    shown_by=lambda: plant(True, EVERY_ROW),
)
