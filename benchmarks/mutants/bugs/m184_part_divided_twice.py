"""The reduction averages gradients, and each rank divides its part by the ranks again."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.models.zero import Zero, ZeroLines, by_parts
from benchmarks.mutants.steps import sgd
from shardproof.proving.cause import CauseKind

if TYPE_CHECKING:
    from benchmarks.mutants.configuration import Configuration


WRONG = ZeroLines(after=lambda part, ranks: part / ranks)


def plant(planted: bool) -> Configuration:
    return by_parts("averaged parts of gradients", Zero(optimizer=sgd, lines=WRONG if planted else ZeroLines()), 2)


BUG = Bug(
    id="M184",
    name="part-divided-twice",
    phase="B",
    seen_in="review: ZeRO by hand, a divisor in two places",
    root="gradient *",
    cause=CauseKind.SCALED,
    factor=Fraction(1, 2),
    plant=plant,
)
