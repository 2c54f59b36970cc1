"""Trials in processes of their own give the same proof."""

import multiprocessing
import os
import signal
import subprocess
import sys

import pytest
from tests.proving import steps
from tests.proving.test_selections import Attention, run

from shardproof.errors import CannotRunError
from shardproof.proving import trials
from shardproof.proving.prove import prove
from shardproof.proving.running.both_sides import Runner
from shardproof.worlds import forked_calls

pytestmark = pytest.mark.processes


@pytest.mark.parametrize(
    ("parallelize", "right"),
    [(steps.parallelize, True), (steps.scaled_gradient, False), (steps.megatron("bias inside"), False)],
    ids=["right", "scaled gradient", "bias inside"],
)
@pytest.mark.parametrize("jobs", [2, 8])
def test_the_proof_is_that_of_one_process(parallelize, right, jobs):
    alone = prove(steps.make_step(), parallelize=parallelize, devices=2, trials=4)
    shared = prove(steps.make_step(), parallelize=parallelize, devices=2, trials=4, jobs=jobs)
    assert shared == alone
    assert shared.ok is right


def test_the_trials_are_not_taken_here(monkeypatch):
    """Without this, the test above would pass if jobs were ignored."""
    seeds, calls = [], []
    run, call = Runner.run, forked_calls.call_side_by_side

    def noted(runner, request, *numbers):
        seeds.extend(request.seeds)
        return run(runner, request, *numbers)

    def noted_calls(fn, arguments, **options):
        calls.append([request.seeds for _, _, request, _ in arguments])
        return call(fn, arguments, **options)

    monkeypatch.setattr(Runner, "run", noted)
    monkeypatch.setattr("shardproof.proving.trials.call_side_by_side", noted_calls)
    assert prove(steps.make_step(), parallelize=steps.parallelize, devices=2, trials=4, jobs=2).ok
    assert seeds == [0]
    assert calls == [[(1, 3), (2,)]]


@pytest.mark.parametrize(("seed", "right"), [(0, False), (2, True)])
def test_choices_of_all_trials_are_put_together(seed, right, monkeypatch):
    """Which operand was chosen is noted over all trials: of seed 2 the first trial alone has one of them."""
    monkeypatch.setattr(trials, "_MOST_FOR_CHOICES", 0)
    assert not run(Attention, "", seed=seed).ok
    alone, shared = (run(Attention, "", seed=seed, count=3, **more) for more in ({}, {"jobs": 2}))
    assert shared == alone
    assert shared.ok is right


def dies_elsewhere(model, mesh):
    if multiprocessing.parent_process() is not None:
        os.kill(os.getpid(), signal.SIGKILL)
    return steps.parallelize(model, mesh)


def raises_elsewhere(model, mesh):
    if multiprocessing.parent_process() is not None:
        raise OverflowError("too large elsewhere")
    return steps.parallelize(model, mesh)


@pytest.mark.parametrize(
    ("parallelize", "said"),
    [(dies_elsewhere, "a process for trials was ended by SIGKILL"), (raises_elsewhere, "too large elsewhere")],
)
def test_a_process_that_ends_is_told(parallelize, said):
    with pytest.raises(CannotRunError, match=said):
        prove(steps.make_step(), parallelize=parallelize, devices=2, trials=3, jobs=2)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"jobs": 0}, "jobs is 0; it needs at least 1"),
        ({"jobs": 2, "spawn": True}, "jobs is 2; it needs simulated ranks, as others are processes already"),
    ],
)
def test_impossible_jobs_are_refused(options, said):
    with pytest.raises(CannotRunError, match=said):
        prove(steps.make_step(), parallelize=steps.parallelize, devices=2, **options)


SCRIPT = """
import torch
import torch.nn.functional as F
from torch import nn

import shardproof as sp

batch = torch.ones(2, 4), torch.zeros(2, 3)
step = sp.Step(model=lambda: nn.Linear(4, 3), batch=batch, loss=F.mse_loss)


def parallelize(model, mesh):
    return model


print(sp.prove(step, parallelize=parallelize, devices=2, {how}).trials)
"""


@pytest.mark.parametrize("how", ["jobs=2", "spawn=True"])
def test_a_file_that_proves_at_its_top_does_not_start_processes_without_end(how, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT.format(how=how))
    alone = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (alone.returncode, alone.stdout) == (0, "3\n"), alone.stderr
    command = [sys.executable, "-m", "shardproof", "prove", "script.py:step", "--parallelize", "script.py:parallelize"]
    loaded = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=120)
    assert loaded.returncode == 2
    assert "tried to start processes of its own" in loaded.stderr
    assert loaded.stderr.count("\n") == 1
