"""Gradients are cleared after each microbatch, as where no_sync is left too early."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.models.accumulation import Accumulation, AccumulationLines, accumulated

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from benchmarks.mutants.configuration import Configuration


def clear(parameters: Sequence[nn.Parameter]) -> None:
    for parameter in parameters:
        parameter.grad = None


WRONG = AccumulationLines(between=clear)


def plant(planted: bool) -> Configuration:
    one = Accumulation(every=True, lines=WRONG if planted else AccumulationLines())
    return accumulated("FSDP2 over microbatches", one, {"dp": 2})


BUG = Bug(
    id="M193",
    name="gradients-cleared-between",
    phase="B",
    seen_in="open-instruct#1498",
    root="gradient *",
    unexplained="the gradient of one microbatch is recorded nowhere",
    plant=plant,
)
