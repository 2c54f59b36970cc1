"""A stage goes on with the activation that it received for the microbatch before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.models.pipelines import Pipeline, PipelineLines, pipelined

if TYPE_CHECKING:
    from benchmarks.mutants.configuration import Configuration


WRONG = PipelineLines(received=lambda messages, number: messages[max(number - 1, 0)])


def plant(planted: bool) -> Configuration:
    pipeline = Pipeline(schedule="1F1B by hand", lines=WRONG if planted else PipelineLines())
    return pipelined("activations received by hand", pipeline, {"pp": 2})


BUG = Bug(
    id="M160",
    name="stale-activation",
    phase="F",
    seen_in="diffusers#14265, in a pipeline",
    root="output layers.2.norm",
    unexplained="no relation between microbatches is written yet",
    plant=plant,
)
