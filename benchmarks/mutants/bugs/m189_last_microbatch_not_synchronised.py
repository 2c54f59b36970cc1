"""FSDP2 is told not to synchronise, and never told to: the last microbatch is not reduced."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.models.accumulation import Accumulation, AccumulationLines, accumulated
from shardproof.proving.cause import CauseKind

if TYPE_CHECKING:
    from benchmarks.mutants.configuration import Configuration


WRONG = AccumulationLines(sync=lambda _number, _parts: False)


def plant(planted: bool) -> Configuration:
    return accumulated("the last microbatch", Accumulation(lines=WRONG if planted else AccumulationLines()), {"dp": 2})


BUG = Bug(
    id="M189",
    name="last-microbatch-not-synchronised",
    phase="B",
    seen_in="picotron#5",
    root="gradient *",
    cause=CauseKind.MISSING_GRADIENT,
    plant=plant,
)
