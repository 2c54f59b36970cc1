"""The gradient of a loss that is divided by all ranks' labels is divided by the ranks that split sequences too."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.models.context import LENGTH, Context, ContextLines, Sizes, split_sequences
from shardproof.proving.cause import CauseKind

if TYPE_CHECKING:
    from benchmarks.mutants.configuration import Configuration


WRONG = ContextLines(scale=lambda share, ranks: share / ranks)


def plant(planted: bool) -> Configuration:
    sizes = Sizes(places=LENGTH)
    context = Context(way="ring", sizes=sizes, rows=4, sharded=True, lines=WRONG if planted else ContextLines())
    return split_sequences("FSDP2 over rows and sequences", context, {"dp": 2, "cp": 2})


BUG = Bug(
    id="M180",
    name="gradient-divided-by-cp",
    phase="B",
    seen_in="Megatron-LM#673, #906",
    root="gradient *",
    cause=CauseKind.SCALED,
    factor=Fraction(1, 2),
    plant=plant,
)
