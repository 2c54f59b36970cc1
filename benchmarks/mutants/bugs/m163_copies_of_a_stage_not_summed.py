"""Copies of a stage have rows of their own, and nobody sums their gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.models.pipelines import Pipeline, PipelineLines, pipelined
from shardproof.proving.cause import CauseKind

if TYPE_CHECKING:
    from benchmarks.mutants.configuration import Configuration


WRONG = PipelineLines(sum_copies=lambda gradient, _group: gradient)


def plant(planted: bool) -> Configuration:
    pipeline = Pipeline(schedule="1F1B", microbatches=2, lines=WRONG if planted else PipelineLines())
    return pipelined("copies of stages", pipeline, {"dp": 2, "pp": 2})


BUG = Bug(
    id="M163",
    name="copies-of-a-stage-not-summed",
    phase="B,R",
    seen_in="review: pipelines beside data parallelism",
    root="gradient *",
    cause=CauseKind.MISSING_ALL_REDUCE,
    plant=plant,
)
