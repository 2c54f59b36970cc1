"""PyTorch's schedules of pipelines, and 1F1B by hand: right ones are proved, simulated and on processes; bugs found."""

import re
from dataclasses import replace

import pytest
from benchmarks.mutants.models.pipelines import BY_HAND, SCHEDULES, Pipeline, PipelineLines, mean, summed
from tests.proving.planted_bugs import ON_PROCESSES, bugs_numbered, require_killed, require_same_on_processes

from shardproof.errors import CannotRunError
from shardproof.proving.cause import CauseKind
from shardproof.proving.prove import prove
from shardproof.report.text import render_text

BUGS = bugs_numbered(*range(150, 164))
WAYS = {
    "tied": (Pipeline(schedule="1F1B", tied=True, clipped=True), {"pp": 2}),
    "tied, on one rank": (Pipeline(schedule="ZBVZeroBubble", tied=True, clipped=True), {"pp": 2}),
    "four stages by hand": (Pipeline(schedule=BY_HAND), {"pp": 4}),
    "five layers": (Pipeline(layers=5), {"pp": 2}),
    "copies": (Pipeline(schedule="1F1B", microbatches=2), {"dp": 2, "pp": 2}),
    "copies, tied, by hand": (Pipeline(schedule=BY_HAND, microbatches=2, tied=True), {"dp": 2, "pp": 2}),
    "copies that share out parameters": (Pipeline(microbatches=2, sharded=True), {"dp": 2, "pp": 2}),
    "copies that share out parameters, two stages each": (
        Pipeline(schedule="Interleaved1F1B", microbatches=2, sharded=True),
        {"dp": 2, "pp": 2},
    ),
    "columns and rows": (Pipeline(schedule="1F1B", microbatches=2), {"pp": 2, "tp": 2}),
}


def run(pipeline, mesh=None, **settings):
    step = pipeline.make_step()
    return prove(step, candidate=pipeline.train, mesh=mesh or {"pp": 2}, trials=1, **settings)


@pytest.mark.parametrize("spawn", [False, ON_PROCESSES])
@pytest.mark.parametrize("schedule", [*SCHEDULES, BY_HAND])
def test_every_schedule_is_proved(schedule, spawn):
    proof = run(Pipeline(schedule=schedule), spawn=spawn)
    assert proof.ok, render_text(proof)
    assert {one.key.name for one in proof.findings} >= {"embed.weight", "layers.3.up.weight", "head.weight"}


@pytest.mark.parametrize("schedule", [*SCHEDULES, BY_HAND])
def test_gradients_that_are_not_divided_by_the_microbatches_are_found(schedule):
    lines = PipelineLines(loss=lambda *given: 4 * mean(*given), total=lambda loss, group: summed(loss, group) / 4)
    wrong = run(Pipeline(schedule=schedule, padded="none", lines=lines))
    roots = {one.key.name: one.cause for one in wrong.roots}
    assert {(cause.kind, cause.factor) for cause in roots.values()} == {(CauseKind.SCALED, 4)}
    assert roots.keys() >= {"embed.weight", "head.weight"}  # of both ranks, and nothing that follows
    if schedule != BY_HAND:
        assert run(Pipeline(schedule=schedule, padded="none", lines=replace(lines, scales=True))).ok


@pytest.mark.parametrize("spawn", [False, ON_PROCESSES])
@pytest.mark.parametrize("way", WAYS)
def test_stages_are_proved_beside_all_else(way, spawn):
    proof = run(*WAYS[way], spawn=spawn)
    assert proof.ok, render_text(proof)


@pytest.mark.parametrize("name", BUGS)
def test_a_bug_of_pipelines_is_killed_at_its_place_and_for_its_reason(name):
    require_killed(BUGS[name])


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.parametrize("name", ["M151", "M153", "M156", "M160"])
def test_processes_say_the_same_of_a_bug(name):
    require_same_on_processes(BUGS[name])


def of_rank(*pipelines):
    """Ranks that disagree on what they do."""

    def train(run):
        pipelines[run.rank].train(run)

    return train


ONE_EACH = PipelineLines(layers_of=lambda stage, _stages, layers: range(stage, min(stage + 1, layers)))
ONE_STAGE = PipelineLines(stages_of=lambda _rank, _ranks, _schedule: (0,))
REFUSED = {
    "more stages than layers": (
        Pipeline(layers=1, lines=ONE_EACH).train,
        {"pp": 4},
        r"^rank [12]: run.watch was given Stage without parameters; .* no more stages than the model has layers$",
    ),
    "more ranks than stages": (
        Pipeline(lines=replace(ONE_STAGE, layers_of=lambda *_given: range(4))).train,
        {"pp": 2},
        r"^rank \d: \w+Error: ",
    ),
    "a mesh without the axis": (Pipeline().train, {"tp": 2}, r"Valid mesh_dim_names are \['tp'\]"),
    "fewer microbatches than stages": (
        Pipeline(schedule="DualPipeV", microbatches=2).train,
        {"pp": 2},
        "DualPipeV requires at least as many microbatches as stages",
    ),
    "microbatches that do not divide the rows": (
        Pipeline(microbatches=3).train,
        {"pp": 2},
        r"^rank \d: a message does not fit: rank 0 calls send of float64 \[2, 5, 8\] to rank 1 .*, rank 1 calls re",
    ),
    "a view at the end of a stage": (
        Pipeline(
            schedule="ZBVZeroBubble", lines=PipelineLines(finish=lambda x: x.unflatten(2, (2, -1)).flatten(2))
        ).train,
        {"pp": 2},
        r"^rank 1: RuntimeError: Can't detach views in-place.*: `schedule.step\(",
    ),
    "more microbatches than rows": (Pipeline(microbatches=16).train, {"pp": 2}, "Expecting 16 arg_mbs but got 8"),
    "ranks that disagree on microbatches": (
        of_rank(Pipeline(schedule=BY_HAND, microbatches=2), Pipeline(schedule=BY_HAND)),
        {"pp": 2},
        "a message does not fit",
    ),
    "ranks with other schedules": (
        of_rank(Pipeline(), Pipeline(schedule="1F1B")),
        {"pp": 2},
        r"deadlock; rank 0 waits in send of .* to rank 1 .*; rank 1 waits in send of .* to rank 0",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_schedule_can_run_is_refused_in_one_line(name):
    candidate, mesh, said = REFUSED[name]
    step = Pipeline(layers=1 if "layers" in name else 4).make_step()
    with pytest.raises(CannotRunError, match=said) as refused:
        prove(step, candidate=candidate, mesh=mesh, trials=1)
    assert "\n" not in str(refused.value)


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.parametrize(
    "name",
    [
        "more stages than layers",
        "microbatches that do not divide the rows",
        "ranks that disagree on microbatches",
        "a view at the end of a stage",
    ],
)
def test_processes_refuse_it_too(name):
    candidate, mesh, said = REFUSED[name]
    if "disagree" in name:
        said += "|Received data size doesn't match expected size"  # gloo may say it first, and end the process
    with pytest.raises(CannotRunError) as refused:
        prove(Pipeline(layers=1 if "layers" in name else 4).make_step(), candidate=candidate, mesh=mesh, spawn=True)
    first, *_the_ranks_traceback = str(refused.value).splitlines()
    assert re.search(said, first)
