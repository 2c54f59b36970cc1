"""Gradients are zeroed before the last microbatch's backward: it alone counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.models.pipelines import Pipeline, PipelineLines, pipelined

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from benchmarks.mutants.configuration import Configuration


def zero_before_the_last(number: int, parameters: Sequence[nn.Parameter]) -> None:
    for parameter in parameters:
        if number == 3 and parameter.grad is not None:
            parameter.grad.zero_()


WRONG = PipelineLines(start=zero_before_the_last)


def plant(planted: bool) -> Configuration:
    pipeline = Pipeline(schedule="1F1B by hand", lines=WRONG if planted else PipelineLines())
    return pipelined("gradients of microbatches by hand", pipeline, {"pp": 2})


BUG = Bug(
    id="M159",
    name="gradients-zeroed-between-microbatches",
    phase="B",
    seen_in="open-instruct#1498",
    root="gradient *",
    unexplained="what a microbatch adds to a gradient is recorded nowhere",
    plant=plant,
)
