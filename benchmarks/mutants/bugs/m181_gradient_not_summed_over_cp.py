"""Gradients are summed over the ranks with rows of their own, not over those with parts of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.models.context import Context, ContextLines, split_sequences, summed
from shardproof.proving.cause import CauseKind

if TYPE_CHECKING:
    from benchmarks.mutants.configuration import Configuration


WRONG = ContextLines(sum_gradients=lambda gradient, groups: summed(gradient, groups[:1]))


def plant(planted: bool) -> Configuration:
    context = Context(way="ring", rows=4, lines=WRONG if planted else ContextLines())
    return split_sequences("gradients over rows and sequences", context, {"dp": 2, "cp": 2})


BUG = Bug(
    id="M181",
    name="gradient-not-summed-over-cp",
    phase="B,R",
    seen_in="review: data parallelism beside context parallelism",
    root="gradient *",
    cause=CauseKind.MISSING_ALL_REDUCE,
    plant=plant,
)
