"""Each microbatch has a mean, and nobody divides the gradients by the number of microbatches."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.models.pipelines import Pipeline, PipelineLines, mean, pipelined, summed
from shardproof.proving.cause import CauseKind

if TYPE_CHECKING:
    from benchmarks.mutants.configuration import Configuration


WRONG = PipelineLines(loss=lambda *given: 4 * mean(*given), total=lambda loss, group: summed(loss, group) / 4)


def plant(planted: bool) -> Configuration:
    pipeline = Pipeline(schedule="InterleavedZeroBubble", padded="none", lines=WRONG if planted else PipelineLines())
    return pipelined("means of microbatches", pipeline, {"pp": 2})


BUG = Bug(
    id="M153",
    name="microbatches-not-divided",
    phase="B",
    seen_in="pytorch#164777",
    root="gradient *",
    cause=CauseKind.SCALED,
    factor=Fraction(4),
    plant=plant,
)
