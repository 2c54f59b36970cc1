"""`shardproof prove` of a step that is not the same twice, or another on loading, of ranks that hang: exit code 2."""

import sys
from pathlib import Path

import pytest
from tests.proving import steps

from shardproof.cli.app import main

STEPS = Path(steps.__file__).read_text()
MORE = """
import random as random_

calls = []


def count(outputs, targets):
    calls.append(1)
    return F.mse_loss(outputs, targets) * len(calls)


counted = make_step(loss=count)
branching = make_step(loss=lambda outputs, targets: F.mse_loss(outputs, targets) * random_.random())
loaded = make_step(batch=(torch.tensor([[random_.random()] * 6]), torch.ones(1, 4)))


def sleeps(model, mesh):
    if mesh.get_local_rank() == 1:
        time.sleep(12)
    return parallelize(model, mesh)
"""


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run the command in a folder with the steps; return its exit code, stdout and stderr."""
    (tmp_path / "my_training.py").write_text(STEPS + MORE)
    monkeypatch.chdir(tmp_path)

    def prove(step, sharding, *more):
        arguments = ["prove", f"my_training.py:{step}", "--parallelize", f"my_training.py:{sharding}", "--trials", "1"]
        monkeypatch.setattr(sys, "argv", ["shardproof", *arguments, *more])
        with pytest.raises(SystemExit) as exit_:
            main()
        printed = capsys.readouterr()
        return exit_.value.code, printed.out, printed.err

    return prove


def assert_refused(found, said):
    code, out, err = found
    assert (code, out) == (2, "")
    assert err.startswith("shardproof: error: ")
    assert err.count("\n") == 1
    assert said in err


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ("counted", "part at step 1, loss loss: it draws random numbers without a seed, or remembers earlier calls"),
        ("branching", "the step draws from Python's random in every call"),
    ],
)
def test_a_step_that_is_not_the_same_twice_is_refused(run, step, said):
    assert_refused(run(step, "parallelize"), said)


def test_a_simulated_rank_that_hangs_is_given_up(run):
    assert_refused(run("step", "sleeps", "--timeout", "2"), "rank 1: has not come to its next collective for 2 s")


@pytest.mark.processes
@pytest.mark.slow
def test_a_spawned_rank_that_hangs_is_given_up(run):
    assert_refused(run("step", "hangs", "--spawn", "--timeout", "15"), "ranks 0, 1 made no progress for 15 s")


@pytest.mark.processes
def test_a_batch_that_is_another_in_each_process_is_refused(run):
    assert run("loaded", "parallelize")[0] == 0
    assert_refused(run("loaded", "parallelize", "--spawn"), "the batch is another one when the step is loaded")


@pytest.mark.processes
def test_closures_are_loaded_again_in_each_process(run):
    assert run("step", "parallelize", "--spawn")[0] == 0
