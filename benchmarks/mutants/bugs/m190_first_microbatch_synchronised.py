"""DDP synchronises the first microbatch of each step in place of the last."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.models.accumulation import Accumulation, AccumulationLines, accumulated
from shardproof.proving.cause import CauseKind

if TYPE_CHECKING:
    from benchmarks.mutants.configuration import Configuration


WRONG = AccumulationLines(sync=lambda number, _parts: number == 0)


def plant(planted: bool) -> Configuration:
    one = Accumulation(way="DDP", lines=WRONG if planted else AccumulationLines())
    return accumulated("DDP over microbatches", one, {"dp": 2})


BUG = Bug(
    id="M190",
    name="first-microbatch-synchronised",
    phase="B,R",
    seen_in="picotron#5",
    root="gradient *",
    cause=CauseKind.MISSING_AVERAGE,
    plant=plant,
)
