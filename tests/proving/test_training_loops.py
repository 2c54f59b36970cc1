"""Training loops that read numbers: to log them, to clip by them, to branch on them. Each right one has wrong twins."""

import math

import pytest
import torch
import torch.nn.functional as F
from tests.proving import steps

from shardproof.proving.prove import prove
from shardproof.proving.records import Phase
from shardproof.report.text import render_text

MAX_NORM = 0.05


def sum_of_squares(parameters):
    return sum((parameter.grad**2).sum() for parameter in parameters)


def scale(parameters, factor):
    for parameter in parameters:
        parameter.grad.mul_(factor)


def clip_by_coefficient(parameters, *, counted=1, limit=1.0):
    norm = (counted * sum_of_squares(parameters)).item() ** (1.0 / 2)
    coefficient = MAX_NORM / (norm + 1e-6)
    if coefficient < limit:
        scale(parameters, coefficient)
    return norm


def clip_by_tensor(parameters):
    norm = torch.linalg.vector_norm(torch.stack([parameter.grad.norm() for parameter in parameters]))
    coefficient = MAX_NORM / (norm + 1e-6)
    if coefficient < 1:
        scale(parameters, coefficient)
    return norm


def clip_by_min(parameters, *, smallest=min):
    norm = sum_of_squares(parameters).sqrt().item()
    scale(parameters, smallest(MAX_NORM / (norm + 1e-6), 1.0))
    return norm


def make_train(clip=clip_by_coefficient, read=lambda run, model, loss: None):
    """One device's step on every rank, written out."""

    def train(run):
        model = run.model()
        parameters = list(model.parameters())
        optimizer = torch.optim.SGD(parameters, lr=0.1)
        for x, y in run.batches():
            optimizer.zero_grad()
            loss = F.mse_loss(model(x), y)
            run.record_loss(loss)
            read(run, model, loss)
            loss.backward()
            run.record_gradients()
            norm = clip(parameters) if clip else None
            optimizer.step()
            run.record_update(optimizer, norm=norm)

    return train


def prove_loop(train, clip_norm=MAX_NORM, **settings):
    step = steps.make_step_of_four_rows(clip_norm=clip_norm, steps=1)
    return prove(step, candidate=train, devices=2, **({"trials": 2, "allow": ["VACUOUS sharding *"]} | settings))


@pytest.mark.parametrize("clip", [clip_by_coefficient, clip_by_tensor, clip_by_min])
def test_clipping_by_a_number_is_proved(clip):
    proof = prove_loop(make_train(clip))
    assert proof.ok
    (branch,) = proof.branches
    assert branch.limited
    assert "test_training_loops.py" in branch.line
    assert f"A comparison of numbers at {branch.line} is {str(branch.holds).lower()} wherever" in render_text(proof)
    assert all(one.false_accept is not None for one in proof.findings if one.key.phase is Phase.GRADIENT)


def count_twice(parameters):
    return clip_by_coefficient(parameters, counted=2)


def clip_without_limit(parameters):
    return clip_by_coefficient(parameters, limit=math.inf)


def take_the_larger(parameters):
    return clip_by_min(parameters, smallest=max)


def clip_above_another_limit(parameters):
    return clip_by_coefficient(parameters, limit=3.0)


@pytest.mark.parametrize("clip", [count_twice, clip_without_limit, take_the_larger, clip_above_another_limit])
def test_wrong_clipping_by_a_number_is_found(clip):
    proof = prove_loop(make_train(clip))
    assert not proof.ok
    phase = Phase.NORM if clip is count_twice else Phase.UPDATE
    assert phase in {one.key.phase for one in proof.findings if not one.verdict.ok}


def clip_by_norm(model, *, factor=1.0):
    norm = factor * sum_of_squares(list(model.parameters())).sqrt().item()
    if norm > MAX_NORM:
        scale(model.parameters(), MAX_NORM / norm)


@pytest.mark.parametrize(("factor", "right"), [(1.0, True), (2.0, False)])
def test_a_branch_of_ones_own_is_proved_where_one_device_has_it_too(factor, right):
    def clip(parameters):
        norm = factor * sum_of_squares(parameters).sqrt().item()
        if norm > MAX_NORM:
            scale(parameters, MAX_NORM / norm)

    step = steps.make_step_of_four_rows(clip=clip_by_norm, steps=1)
    assert prove(step, candidate=make_train(clip), devices=2, trials=2, allow=["VACUOUS sharding *"]).ok == right


def log(_run, _model, loss):
    shown = float(loss.detach())
    print(f"{loss:.3f} {loss.item():.3f} {shown:.3f} {math.exp(loss.item()):.1f}")
    if not math.isfinite(loss.item()):
        raise SystemExit(1)


def track_the_best(run, _model, loss):
    best = min(getattr(track_the_best, "best", math.inf), loss.item())
    if run.rank == 0 and loss.item() < best:
        track_the_best.best = best


def warn(_run, _model, loss):
    if loss.item() > 1e4:
        print("large")


@pytest.mark.parametrize("read", [log, track_the_best])
def test_reading_the_loss_does_not_stop_a_proof(read, capsys):
    assert prove_loop(make_train(None, read), clip_norm=None).ok
    assert (len(set(capsys.readouterr().out.split("\n"))) > 2) == (read is log)


def test_a_drawn_answer_is_told():
    proof = prove_loop(make_train(None, warn), clip_norm=None)
    assert proof.ok
    assert proof.branches
    assert not any(branch.limited for branch in proof.branches)
    assert render_text(proof).count("has a drawn answer in each trial") == 1  # whichever answers were drawn


def spoil(model):
    with torch.no_grad():
        model.up.weight.mul_(2)


def branch(_run, model, loss):
    if loss.item() > 1.5:
        spoil(model)


def branch_on_a_tensor(_run, model, loss):
    if loss < 7:
        spoil(model)


def scale_by_a_shown_number(_run, model, loss):
    with torch.no_grad():
        model.down.bias.mul_(float(loss.detach()))


def scale_by_a_shown_number_in_c(_run, model, loss):
    with torch.no_grad():
        model.down.bias.mul_(math.sqrt(loss.item()))


@pytest.mark.parametrize("read", [branch, branch_on_a_tensor, scale_by_a_shown_number, scale_by_a_shown_number_in_c])
@pytest.mark.parametrize("seed", range(3))
def test_what_a_number_decides_or_changes_is_found(read, seed):
    assert not prove_loop(make_train(None, read), clip_norm=None, trials=4, seed=seed).ok


@pytest.mark.processes
@pytest.mark.parametrize(("clip", "right"), [(clip_by_coefficient, True), (count_twice, False)])
def test_ranks_that_are_processes_decide_alike(clip, right):
    assert prove_loop(make_train(clip, log), spawn=True).ok == right
