"""Stages have as many layers each, and those that are left over are on no rank."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.models.pipelines import Pipeline, PipelineLines, pipelined
from shardproof.proving.cause import CauseKind

if TYPE_CHECKING:
    from benchmarks.mutants.configuration import Configuration


def drop_the_rest(stage: int, stages: int, layers: int) -> range:
    return range(stage * (layers // stages), (stage + 1) * (layers // stages))


WRONG = PipelineLines(layers_of=drop_the_rest)


def plant(planted: bool) -> Configuration:
    pipeline = Pipeline(schedule="1F1B", layers=5, lines=WRONG if planted else PipelineLines())
    return pipelined("five layers on two stages", pipeline, {"pp": 2})


BUG = Bug(
    id="M150",
    name="layers-lost-to-stages",
    phase="F",
    seen_in="review: pipelines",
    root="initial parameter layers.4.norm.weight",
    cause=CauseKind.LOST,
    plant=plant,
)
