"""The user's own training step: right ones are proved, wrong averages, norms and updates found, gaps are findings."""

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from shardproof.errors import CannotRunError
from shardproof.proving.findings import Verdict
from shardproof.proving.prove import prove
from shardproof.proving.records import Phase

from . import steps


def average(tensor):
    tensor = tensor.detach().clone()
    dist.all_reduce(tensor)
    return tensor / dist.get_world_size()


def make_training(*, forget=(), late=False, steps_taken=None, clip=None):
    """Data parallel over two ranks, four rows a batch."""

    def train(run):
        model = steps.MLP().to(run.state["up.weight"].dtype)
        model.load_state_dict(dict(run.state))
        if "watch" not in forget:
            run.watch(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for number, (x, y) in enumerate(run.batches()):
            if number == steps_taken:
                break
            optimizer.zero_grad()
            loss = F.mse_loss(model(x.chunk(run.size)[run.rank]), y.chunk(run.size)[run.rank])
            if "loss" not in forget:
                run.record_loss(average(loss))
            loss.backward()
            for parameter in model.parameters():
                if "average" not in forget:
                    parameter.grad = average(parameter.grad)
            if "gradients" not in forget:
                run.record_gradients()
            norm = None
            if clip is not None:
                norm = torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            if "update" not in forget:
                run.record_update(optimizer, norm=norm)

    return train


def make_step(**changes):
    generator = torch.Generator().manual_seed(0)
    batch = torch.randn(4, 6, generator=generator), torch.randn(4, 4, generator=generator)
    return steps.make_step(batch=batch, **({"steps": 2} | changes))


def run(training, **changes):
    return prove(make_step(**changes), candidate=training, devices=2, trials=1)


@pytest.mark.parametrize("clip", [None, 1.0])
def test_data_parallel_training_is_proved(clip):
    proof = run(make_training(clip=clip), clip_norm=clip)
    assert proof.ok
    phases = {finding.key.phase for finding in proof.findings}
    assert phases >= {Phase.LOSS, Phase.GRADIENT, Phase.UPDATE}
    assert (Phase.NORM in phases) == (clip is not None)
    assert {finding.key.step for finding in proof.findings} == {0, 1}


def test_gradients_that_are_not_averaged_are_found():
    proof = run(make_training(forget=["average"]))
    assert not proof.ok
    assert any(finding.key.phase is Phase.GRADIENT for finding in proof.findings if finding.verdict is Verdict.WRONG)


def test_a_training_that_clips_where_the_step_does_not_is_found():
    proof = run(make_training(clip=1.0))
    assert not proof.ok
    assert any(finding.key.phase is Phase.UPDATE for finding in proof.findings if not finding.verdict.ok)


@pytest.mark.parametrize(("forgotten", "phase"), [("loss", "LOSS"), ("gradients", "GRADIENT"), ("update", "UPDATE")])
def test_what_is_not_reported_is_not_proved(forgotten, phase):
    proof = run(make_training(forget=[forgotten]), steps=1)
    assert not proof.ok
    wrong = {finding.key.phase for finding in proof.findings if not finding.verdict.ok}
    assert wrong == {Phase[phase]}


def test_a_training_that_stops_early_is_not_proved():
    proof = run(make_training(steps_taken=1))
    assert {finding.key.step for finding in proof.findings if not finding.verdict.ok} == {1}


@pytest.mark.parametrize(
    ("training", "said"),
    [
        (make_training(forget=["watch"]), "has not called run.watch"),
        (lambda run: run.watch(None), "run.watch was given NoneType"),
        (lambda run: run.watch(torch.nn.Linear(2, 2).double()), "took 0 of 2 steps"),
    ],
)
def test_a_training_that_cannot_be_followed_says_why(training, said):
    with pytest.raises(CannotRunError, match=said):
        run(training)


def test_exactly_one_of_parallelize_and_candidate():
    with pytest.raises(CannotRunError, match="exactly one of"):
        prove(make_step(), devices=2)
    with pytest.raises(CannotRunError, match="exactly one of"):
        prove(make_step(), parallelize=steps.parallelize, candidate=make_training(), devices=2)
    with pytest.raises(CannotRunError, match="simulated only"):
        prove(make_step(), candidate=make_training(), devices=2, spawn=True)
