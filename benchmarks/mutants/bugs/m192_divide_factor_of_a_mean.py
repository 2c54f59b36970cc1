"""The loss is divided by the whole batch, and FSDP2 divides gradients by the ranks again."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.models.accumulation import Accumulation, AccumulationLines, accumulated
from shardproof.proving.cause import CauseKind

if TYPE_CHECKING:
    from benchmarks.mutants.configuration import Configuration


WRONG = AccumulationLines(factor=float)


def plant(planted: bool) -> Configuration:
    one = Accumulation(factor="gradient", lines=WRONG if planted else AccumulationLines())
    return accumulated("a divide factor", one, {"dp": 2})


BUG = Bug(
    id="M192",
    name="divide-factor-of-a-mean",
    phase="B",
    seen_in="pytorch#155903",
    root="gradient *",
    cause=CauseKind.SCALED,
    factor=Fraction(1, 2),
    plant=plant,
)
