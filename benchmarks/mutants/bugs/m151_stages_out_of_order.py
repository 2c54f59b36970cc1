"""A rank with two stages takes layers that follow each other, where the schedule goes around all ranks in between."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.models.pipelines import Pipeline, PipelineLines, layers_of, pipelined

if TYPE_CHECKING:
    from benchmarks.mutants.configuration import Configuration


WRONG = PipelineLines(layers_of=lambda stage, stages, layers: layers_of(stage % 2 * 2 + stage // 2, stages, layers))


def plant(planted: bool) -> Configuration:
    pipeline = Pipeline(schedule="Interleaved1F1B", lines=WRONG if planted else PipelineLines())
    return pipelined("two stages on each rank", pipeline, {"pp": 2})


BUG = Bug(
    id="M151",
    name="stages-out-of-order",
    phase="F",
    seen_in="review: interleaved stages",
    root="output layers.1.norm",
    unexplained="layers in another order are another function",
    plant=plant,
)
