"""The loss is divided by the number of microbatches, and the schedule divides the gradients again."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.models.pipelines import Pipeline, PipelineLines, pipelined
from shardproof.proving.cause import CauseKind

if TYPE_CHECKING:
    from benchmarks.mutants.configuration import Configuration


WRONG = PipelineLines(scales=True)


def plant(planted: bool) -> Configuration:
    pipeline = Pipeline(schedule="ZBVZeroBubble", lines=WRONG if planted else PipelineLines())
    return pipelined("shares of microbatches", pipeline, {"pp": 2})


BUG = Bug(
    id="M154",
    name="microbatches-divided-twice",
    phase="B",
    seen_in="review: scale_grads",
    root="gradient *",
    cause=CauseKind.SCALED,
    factor=Fraction(1, 4),
    plant=plant,
)
