"""The last stage takes the microbatches' targets in another order than the first one takes their ids."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.models.pipelines import Pipeline, PipelineLines, pipelined

if TYPE_CHECKING:
    from benchmarks.mutants.configuration import Configuration


WRONG = PipelineLines(targets=lambda targets: targets.roll(2, 0))


def plant(planted: bool) -> Configuration:
    pipeline = Pipeline(lines=WRONG if planted else PipelineLines())
    return pipelined("targets on the last stage", pipeline, {"pp": 2})


BUG = Bug(
    id="M155",
    name="targets-of-another-microbatch",
    phase="F",
    seen_in="review: microbatch order",
    root="loss loss",
    unexplained="the loss of each microbatch is recorded nowhere",
    plant=plant,
)
