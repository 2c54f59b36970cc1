"""The loss is averaged over the stages, of which only the last one has it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.models.pipelines import Pipeline, PipelineLines, pipelined, summed
from shardproof.proving.cause import CauseKind

if TYPE_CHECKING:
    from benchmarks.mutants.configuration import Configuration


WRONG = PipelineLines(total=lambda loss, group: summed(loss, group) / 2)


def plant(planted: bool) -> Configuration:
    pipeline = Pipeline(lines=WRONG if planted else PipelineLines())
    return pipelined("the loss of the last stage", pipeline, {"pp": 2})


BUG = Bug(
    id="M162",
    name="loss-averaged-over-stages",
    phase="F",
    seen_in="review: pipelines",
    root="loss loss",
    cause=CauseKind.OFF_BY_CONSTANT,
    plant=plant,
)
