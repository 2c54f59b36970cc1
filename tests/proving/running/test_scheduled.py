"""PyTorch's schedules by `parallelize`: the schedule takes forward and backward, the prover all else."""

import re
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from benchmarks.mutants.models.pipelines import (
    LOOPED,
    SCHEDULES,
    SINGLE,
    V_SHAPED,
    Pipeline,
    Stage,
    layers_of,
    stages_of,
)
from tests.proving.planted_bugs import ON_PROCESSES
from torch.distributed.fsdp import fully_shard
from torch.distributed.pipelining import PipelineStage, schedules

from shardproof.errors import CannotRunError
from shardproof.proving.cause import CauseKind
from shardproof.proving.findings import Verdict
from shardproof.proving.prove import prove
from shardproof.report.text import render_text


def mean(logits, targets):
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def of_other_rows(logits, targets):
    return mean(logits, targets.roll(1, 0))


def without_one(stage, stages, layers):
    """The layers of a stage; the last stage forgets its last one."""
    found = layers_of(stage, stages, layers)
    return found[:-1] if stage == stages - 1 else found


def one_after_the_other(rank, ranks, _schedule):
    """The stages of a rank, as if they did not go around, or came back."""
    return 2 * rank, 2 * rank + 1


def in_another_order(stage, stages, layers):
    """The layers of a stage, from the last one on."""
    return reversed(layers_of(stages - 1 - stage, stages, layers))


def pipeline(
    schedule, *, layers=layers_of, numbers=stages_of, loss=mean, microbatches=4, sharded=False, axis="pp", **settings
):
    """What a user has: a model and a mesh -> stages -> a schedule."""

    def parallelize(model, mesh):
        group = mesh[axis].get_group()
        own = numbers(mesh[axis].get_local_rank(), mesh[axis].size(), schedule)
        count = len(own) * mesh[axis].size()
        stages = []
        for number in own:
            held = layers(number, count, len(model.layers))
            stage = Stage(model, held, is_first=number == 0, is_last=number == count - 1)
            if sharded:
                fully_shard(stage, mesh=mesh["dp"])
            stages.append(PipelineStage(stage, number, count, torch.device("cpu"), group=group))
        made = getattr(schedules, f"Schedule{schedule}")
        return made(stages[0] if schedule in SINGLE else stages, microbatches, loss_fn=loss, **settings)

    return parallelize


def run(parallelize, mesh=None, *, step=None, **settings):
    step = step or Pipeline(padded="none", clipped=True).make_step()
    return prove(step, parallelize=parallelize, mesh=mesh or {"pp": 2}, **{"trials": 1} | settings)


@pytest.mark.parametrize("spawn", [False, ON_PROCESSES])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_is_proved(schedule, spawn):
    proof = run(pipeline(schedule), spawn=spawn)
    assert proof.ok, render_text(proof)
    assert {one.key.name for one in proof.findings} >= {"embed.weight", "layers.3.up.weight", "head.weight", "loss"}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_gradients_that_are_not_divided_by_the_microbatches_are_found(schedule):
    proof = run(pipeline(schedule, scale_grads=False))
    (root,) = proof.roots
    assert (str(root.key), root.cause.kind, root.cause.factor) == ("step 1, loss loss", CauseKind.SCALED, 4)
    assert run(pipeline(schedule, loss=lambda *given: mean(*given) / 4, scale_grads=False)).ok


WRONG = {
    "a layer is lost": (SINGLE[0], {"layers": without_one}, "layers.3"),
    "layers in another order": (SINGLE[1], {"layers": in_another_order}, "layers.0"),
    "a layer is lost, around": (LOOPED[0], {"layers": without_one}, "layers.3"),
    "a layer is lost, back": (V_SHAPED[0], {"layers": without_one}, "layers.3"),
    "other rows' targets": (LOOPED[2], {"loss": of_other_rows}, "loss"),
    "other rows' targets, back": (V_SHAPED[1], {"loss": of_other_rows}, "loss"),
}


@pytest.mark.parametrize("spawn", [False, ON_PROCESSES])
@pytest.mark.parametrize("name", WRONG)
def test_a_bug_of_the_stages_is_found_at_its_place(name, spawn):
    schedule, changed, place = WRONG[name]
    proof = run(pipeline(schedule, **changed), spawn=spawn)
    assert proof.roots, render_text(proof)
    assert all(root.verdict is Verdict.WRONG for root in proof.roots)
    assert any(root.key.name.startswith(place) for root in proof.roots), render_text(proof)


@pytest.mark.parametrize("spawn", [False, ON_PROCESSES])
def test_copies_share_out_the_rows_and_average_gradients(spawn):
    mesh, few = {"dp": 2, "pp": 2}, {"microbatches": 2}
    proof = run(pipeline("1F1B", sharded=True, **few), mesh, spawn=spawn)
    assert proof.ok, render_text(proof)
    unaveraged = run(pipeline("1F1B", **few), mesh, spawn=spawn)
    assert {root.key.name for root in unaveraged.roots} >= {"embed.weight", "head.weight"}


def test_several_trials_and_steps_have_bounds():
    proof = run(pipeline("1F1B"), trials=2)
    assert proof.ok, render_text(proof)
    assert proof.trials == 2


def test_the_mean_of_microbatches_with_unequal_tokens_is_wrong():
    proof = run(pipeline("GPipe"), step=Pipeline().make_step())
    assert "step 1, loss loss" in {str(root.key) for root in proof.roots}


ONE_EACH = {"layers": lambda stage, _stages, layers: range(stage, min(stage + 1, layers))}
BY_FORWARD = replace(Pipeline().make_step(), loss=None, forward=lambda model, batch: mean(model(batch[0]), batch[1]))
REFUSED = {
    "more stages than layers": (
        pipeline("GPipe", **ONE_EACH),
        {"mesh": {"pp": 4}, "step": Pipeline(layers=1).make_step()},
        r"^rank [12]: stage [12] of 4 in the schedule that .* has no parameters: .* than the model has layers$",
    ),
    "a stage without parameters": (
        pipeline("Interleaved1F1B", **ONE_EACH),
        {"step": Pipeline(layers=2).make_step()},
        r"^rank 0: stage 2 of 4 in the schedule that parallelize returned has no parameters",
    ),
    "a mesh without the axis": (pipeline("GPipe"), {"mesh": {"tp": 2}}, r"Valid mesh_dim_names are \['tp'\]"),
    "stages numbered as no schedule has them": (
        pipeline("Interleaved1F1B", numbers=one_after_the_other),
        {},
        r"^rank [01]: ",
    ),
    "fewer microbatches than stages": (
        pipeline("DualPipeV", microbatches=2),
        {},
        "DualPipeV requires at least as many microbatches as stages",
    ),
    "more microbatches than rows": (pipeline("1F1B", microbatches=16), {}, r"^rank [01]: .*(got 8|size 8 is smaller)"),
    "no loss": (pipeline("GPipe", loss=None), {}, r"^rank [01]: the schedule that parallelize returned has no loss_fn"),
    "a step by forward": (pipeline("GPipe"), {"step": BY_FORWARD}, r"needs a Step with loss\(outputs, targets\)"),
    "a stage in place of a schedule": (
        lambda model, mesh: PipelineStage(model, mesh["pp"].get_local_rank(), 2, torch.device("cpu")),
        {},
        "returned PipelineStage; it must return the sharded model, or a schedule of torch.distributed.pipelining$",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_schedule_can_run_is_refused_in_one_line(name):
    parallelize, settings, said = REFUSED[name]
    with pytest.raises(CannotRunError, match=said) as refused:
        run(parallelize, **settings)
    assert "\n" not in str(refused.value)


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.parametrize("name", ["more stages than layers", "a stage without parameters", "no loss"])
def test_processes_refuse_it_too(name):
    parallelize, settings, said = REFUSED[name]
    with pytest.raises(CannotRunError) as refused:
        run(parallelize, **settings, spawn=True)
    assert re.search(said, str(refused.value).splitlines()[0])
