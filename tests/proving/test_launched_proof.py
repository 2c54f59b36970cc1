"""Proofs whose ranks are the processes that torchrun started: the same digits, one report, one exit code."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.proving import steps
from tests.worlds.test_launched import launch as launch_script

import shardproof as sp
from shardproof.errors import CannotRunError
from shardproof.worlds.rank_environment import find_free_port

SCRIPT = Path(__file__).with_name("launch_proof.py")


def launch(*arguments):
    return launch_script(*arguments, script=SCRIPT)


@pytest.mark.processes
@pytest.mark.parametrize("name", ["parallelize", "training"])
def test_the_proof_of_a_right_step_is_the_simulated_one(name):
    done, errors, codes = launch(name)
    assert done.stdout == "PROVED, as simulated: True\n", done.stderr[-2000:]
    assert (errors, codes, done.returncode) == ([], {}, 0)


@pytest.mark.processes
@pytest.mark.parametrize("arguments", [("scaled_gradient",), ("training", "average")])
def test_the_proof_of_a_wrong_step_is_the_simulated_one_and_no_rank_exits_with_0(arguments):
    done, errors, codes = launch(*arguments)
    assert done.stdout == "WRONG, as simulated: True\n", done.stderr[-2000:]
    assert errors == []
    assert codes[1] == 1
    assert done.returncode == 1


@pytest.mark.processes
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("raises", "rank 1: OverflowError: more than it can hold (tests/proving/steps.py:127 in raises: "),
        ("dies", "the launcher ended rank 0: another rank died, which the launcher names"),
        ("hangs", "rank 1 died or hung without reporting an error; rank 0: RuntimeError: "),
    ],
)
def test_a_rank_that_fails_ends_all_with_one_line(name, said):
    done, errors, _ = launch(name)
    assert len(errors) == 1, done.stderr[-2000:]
    assert errors[0].partition(steps.__file__)[0].startswith(said.partition("tests/proving")[0])
    assert done.stdout == ""
    assert done.returncode == 1  # torchrun's own


def two_agents(tmp_path, sharding):
    """Two agents of torchrun with a rank each run the command; their outputs and exit codes."""
    shutil.copy(steps.__file__, tmp_path / "my_training.py")
    # Rank numbers are given: agents that elect them take a slow agent for a lost one, and start all ranks again.
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"),
        *("--master-addr", "127.0.0.1", "--master-port", str(find_free_port())),
    ]
    proof = [
        *("-m", "shardproof", "prove", "my_training.py:step", "--trials", "1"),
        *("--parallelize", f"my_training.py:{sharding}"),
    ]
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo"}
    options = {"cwd": tmp_path, "env": environment, "text": True}
    agents = [
        subprocess.Popen(
            [*command, "--node-rank", node, *proof], stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
        )
        for node in "01"
    ]
    try:
        printed = [agent.communicate(timeout=120) for agent in agents]
    finally:
        for agent in agents:
            agent.kill()
    return [stdout for stdout, _ in printed], [stderr for _, stderr in printed], [agent.returncode for agent in agents]


@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.parametrize(
    ("sharding", "headline", "code"), [("parallelize", "PROVED: ", 0), ("scaled_gradient", "NOT PROVED: ", 1)]
)
def test_ranks_of_two_agents_prove_and_one_of_them_reports(tmp_path, sharding, headline, code):
    printed, errors, codes = two_agents(tmp_path, sharding)
    assert sorted(one.startswith(headline) for one in printed) == [False, True], (printed, errors)
    assert "" in printed, (printed, errors)
    assert codes == [code, code]


@pytest.fixture
def launched_two(monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)


def test_another_number_of_ranks_than_was_launched_is_an_error(launched_two):
    with pytest.raises(CannotRunError, match="4 ranks were asked for, but 2 were launched: launch 4"):
        sp.prove(steps.step, parallelize=steps.parallelize, mesh={"dp": 2, "tp": 2}, launched=True)
    with pytest.raises(CannotRunError, match="spawn and launched are both set"):
        sp.prove(steps.step, parallelize=steps.parallelize, spawn=True, launched=True)


def test_a_launched_proof_that_was_not_launched_says_how_to(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(CannotRunError, match=r"this process was not launched: .*RANK.* torchrun"):
        sp.prove(steps.step, parallelize=steps.parallelize, launched=True)
