"""Each rank clips by the norm of its own part of the gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.models.zero import Zero, ZeroLines, by_parts
from shardproof.proving.cause import CauseKind

if TYPE_CHECKING:
    from benchmarks.mutants.configuration import Configuration


WRONG = ZeroLines(norm=lambda part: part.square().sum().sqrt())


def plant(planted: bool) -> Configuration:
    return by_parts("the norm of all parts", Zero(clipped=True, lines=WRONG if planted else ZeroLines()), 2)


BUG = Bug(
    id="M185",
    name="norm-of-own-part",
    phase="U,R",
    seen_in="llm.c#524",
    root="gradient norm *",
    cause=CauseKind.NORM_OF_PART,
    plant=plant,
)
