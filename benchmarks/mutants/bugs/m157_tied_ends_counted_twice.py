"""The gradient norm counts the weight that the first and the last stage hold once for each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.models.pipelines import Pipeline, PipelineLines, norm_of, pipelined
from shardproof.proving.cause import CauseKind

if TYPE_CHECKING:
    from benchmarks.mutants.configuration import Configuration


WRONG = PipelineLines(norm=lambda held, _twice, group: norm_of(held, set(), group))


def plant(planted: bool) -> Configuration:
    pipeline = Pipeline(schedule="1F1B by hand", tied=True, clipped=True, lines=WRONG if planted else PipelineLines())
    return pipelined("tied ends, clipped", pipeline, {"pp": 2})


BUG = Bug(
    id="M157",
    name="tied-ends-counted-twice",
    phase="U",
    seen_in="Megatron-LM#7228",
    root="gradient norm gradient norm",
    cause=CauseKind.NORM_COUNTS_REPLICAS,
    plant=plant,
)
