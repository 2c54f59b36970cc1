"""The loss is the mean of the microbatches' means, of which each has another number of tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.models.pipelines import Pipeline, PipelineLines, mean, pipelined

if TYPE_CHECKING:
    from benchmarks.mutants.configuration import Configuration


WRONG = PipelineLines(loss=mean)


def plant(planted: bool) -> Configuration:
    pipeline = Pipeline(schedule="1F1B", lines=WRONG if planted else PipelineLines())
    return pipelined("microbatches with unequal tokens", pipeline, {"pp": 2})


BUG = Bug(
    id="M152",
    name="mean-of-microbatch-means",
    phase="F",
    seen_in="the gradient accumulation bug of many trainers (2024), in a pipeline",
    root="loss loss",
    unexplained="how much each microbatch weighs is recorded nowhere",
    plant=plant,
)
