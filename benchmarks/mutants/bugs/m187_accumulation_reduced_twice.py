"""Each microbatch sums up over the ranks what was accumulated before, which is summed again at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.collectives import all_reduced
from benchmarks.mutants.models.zero import Zero, ZeroLines, by_parts

if TYPE_CHECKING:
    from torch import Tensor

    from benchmarks.mutants.configuration import Configuration


def summed_before(new: Tensor, before: Tensor | None) -> Tensor:
    return new if before is None else all_reduced(before) + new


WRONG = ZeroLines(accumulate=summed_before)


def plant(planted: bool) -> Configuration:
    return by_parts("accumulated, then reduced", Zero(stage=1, parts=2, lines=WRONG if planted else ZeroLines()), 2)


BUG = Bug(
    id="M187",
    name="accumulation-reduced-twice",
    phase="B",
    seen_in="review: gradient accumulation with a reduction in each microbatch",
    root="gradient *",
    unexplained="the gradient of one microbatch is recorded nowhere",
    plant=plant,
)
