"""The first and the last stage hold one weight, and each updates it by its own gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.models.pipelines import Pipeline, PipelineLines, pipelined
from shardproof.proving.cause import CauseKind

if TYPE_CHECKING:
    from benchmarks.mutants.configuration import Configuration


WRONG = PipelineLines(sum_tied=lambda gradient, _group: gradient)


def plant(planted: bool) -> Configuration:
    pipeline = Pipeline(schedule="1F1B", tied=True, lines=WRONG if planted else PipelineLines())
    return pipelined("tied ends of a pipeline", pipeline, {"pp": 2})


BUG = Bug(
    id="M156",
    name="tied-ends-not-summed",
    phase="B,R",
    seen_in="Megatron-LM: embedding gradients all-reduced over the first and the last stage",
    root="gradient embed.weight",
    cause=CauseKind.UNTIED,
    plant=plant,
)
