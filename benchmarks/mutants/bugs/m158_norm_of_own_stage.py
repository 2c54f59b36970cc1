"""Each rank clips by the norm of its own stage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.models.pipelines import Pipeline, PipelineLines, norm_of, pipelined
from shardproof.proving.cause import CauseKind

if TYPE_CHECKING:
    from benchmarks.mutants.configuration import Configuration


WRONG = PipelineLines(norm=lambda held, twice, _group: norm_of(held, twice, None))


def plant(planted: bool) -> Configuration:
    pipeline = Pipeline(schedule="GPipe", clipped=True, lines=WRONG if planted else PipelineLines())
    return pipelined("stages, clipped", pipeline, {"pp": 2})


BUG = Bug(
    id="M158",
    name="norm-of-own-stage",
    phase="U,R",
    seen_in="torchtitan#4312",
    root="gradient norm gradient norm",
    cause=CauseKind.NORM_OF_PART,
    plant=plant,
)
