"""PyTorch's schedules of pipelines, and 1F1B by hand: right ones are proved, simulated and on processes; bugs found."""

from dataclasses import replace

import pytest
from benchmarks.mutants.models.pipelines import BY_HAND, SCHEDULES, Pipeline, PipelineLines, mean

from shardproof.proving.cause import CauseKind
from shardproof.proving.prove import prove
from shardproof.report.text import render_text

ON_PROCESSES = pytest.param(True, marks=[pytest.mark.slow, pytest.mark.processes])


def run(pipeline, mesh=None, **settings):
    return prove(pipeline.make_step(), candidate=pipeline.train, mesh=mesh or {"pp": 2}, **({"trials": 1} | settings))


@pytest.mark.parametrize("spawn", [False, ON_PROCESSES])
@pytest.mark.parametrize("schedule", [*SCHEDULES, BY_HAND])
def test_every_schedule_is_proved(schedule, spawn):
    proof = run(Pipeline(schedule=schedule), spawn=spawn)
    assert proof.ok, render_text(proof)
    assert {one.key.name for one in proof.findings} >= {"embed.weight", "layers.3.up.weight", "head.weight"}


@pytest.mark.parametrize("schedule", [*SCHEDULES, BY_HAND])
def test_gradients_that_are_not_divided_by_the_microbatches_are_found(schedule):
    lines = PipelineLines(
        loss=lambda *given: 4 * mean(*given), total=lambda loss, group: PipelineLines().total(loss, group) / 4
    )
    wrong = run(Pipeline(schedule=schedule, padded="none", lines=lines))
    roots = {one.key.name: one.cause for one in wrong.roots}
    assert {(cause.kind, cause.factor) for cause in roots.values()} == {(CauseKind.SCALED, 4)}
    assert "head.weight" in roots
    if schedule != BY_HAND:
        assert run(Pipeline(schedule=schedule, padded="none", lines=replace(lines, scales=True))).ok
