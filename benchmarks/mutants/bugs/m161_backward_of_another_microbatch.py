"""A gradient that comes back is taken for that of the microbatch that was sent last, not first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.models.pipelines import Pipeline, PipelineLines, pipelined

if TYPE_CHECKING:
    from benchmarks.mutants.configuration import Configuration


WRONG = PipelineLines(order=lambda waiting: waiting.pop())


def plant(planted: bool) -> Configuration:
    pipeline = Pipeline(schedule="1F1B by hand", lines=WRONG if planted else PipelineLines())
    return pipelined("gradients received by hand", pipeline, {"pp": 4})


BUG = Bug(
    id="M161",
    name="backward-of-another-microbatch",
    phase="B",
    seen_in="Megatron-LM#7172",
    root="output gradient layers.*",
    unexplained="no relation between microbatches is written yet",
    plant=plant,
)
