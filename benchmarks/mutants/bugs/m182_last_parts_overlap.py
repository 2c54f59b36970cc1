"""Parts of a flat buffer that is not padded overlap, so that the rest lands an element off."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.models.zero import Zero, ZeroLines, by_parts

if TYPE_CHECKING:
    from benchmarks.mutants.configuration import Configuration


def overlapping(length: int, rank: int, ranks: int) -> slice:
    each = -(-length // ranks)
    start = min(rank * each, length - each)
    return slice(start, start + each)


WRONG = ZeroLines(span=overlapping)


def plant(planted: bool) -> Configuration:
    return by_parts("a padded flat buffer", Zero(lines=WRONG if planted else ZeroLines()), 2)


BUG = Bug(
    id="M182",
    name="last-parts-overlap",
    phase="B",
    seen_in="review: ZeRO by hand, a buffer that the ranks do not divide",
    root="gradient part0",
    unexplained="a buffer that is an element off is no shard of another",
    plant=plant,
)
