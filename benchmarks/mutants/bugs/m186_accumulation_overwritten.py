"""The buffer of gradients is overwritten by each microbatch, so that the last one alone counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.models.zero import Zero, ZeroLines, by_parts

if TYPE_CHECKING:
    from benchmarks.mutants.configuration import Configuration


WRONG = ZeroLines(accumulate=lambda new, _before: new)


def plant(planted: bool) -> Configuration:
    return by_parts("accumulated in a buffer", Zero(parts=2, lines=WRONG if planted else ZeroLines()), 2)


BUG = Bug(
    id="M186",
    name="accumulation-overwritten",
    phase="B",
    seen_in="Megatron-LM#7186",
    root="gradient *",
    unexplained="the gradient of one microbatch is recorded nowhere",
    plant=plant,
)
