"""The launched world under torchrun: what it gives, who speaks, and how it ends."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from shardproof.errors import CannotRunError
from shardproof.worlds.launched import is_launched
from shardproof.worlds.make import make_world

SCRIPT = Path(__file__).with_name("launch_me.py")


def launch(*arguments, script=SCRIPT):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    done = subprocess.run([*command, str(script), *arguments], capture_output=True, text=True, check=False, timeout=120)
    errors = [line for line in done.stderr.splitlines() if line.startswith("shardproof: error: ")]
    # torchrun's own report: the exit code of each rank that failed
    codes = {
        int(rank): int(code)
        for rank, code in re.findall(r"^ +rank +: (\d+) .*\n +exitcode +: (-?\d+)", done.stderr, re.MULTILINE)
    }
    return done, [line.removeprefix("shardproof: error: ") for line in errors], codes


@pytest.mark.processes
def test_launched_gives_what_simulated_gives_and_rank_0_speaks():
    done, errors, codes = launch("every_collective", "3")
    assert done.stdout == "2 ranks, bitwise the simulated world's: True\n"
    assert (errors, codes, done.returncode) == ([], {}, 0)


@pytest.mark.processes
def test_failing_rank_speaks_for_itself():
    done, errors, codes = launch("raise_on", "1")
    assert done.stdout == ""
    assert errors[0].startswith("rank 1: OverflowError: more than it can hold (")
    assert all(error.startswith("rank 1: OverflowError: more than it can hold") for error in errors)
    assert codes[1] == 2


@pytest.mark.processes
def test_rank_that_dies_is_named_by_rank_0():
    _, errors, codes = launch("exit_on", "1", "7")
    assert len(errors) == 1
    # the broken collective is noticed first, or the launcher's signal
    assert re.match(
        r"rank 1 died or hung without reporting an error; (rank 0 was in all_reduce 'second'|the launcher)", errors[0]
    )
    assert codes == {0: 2, 1: 7}


@pytest.mark.processes
def test_rank_0_speaks_when_the_launcher_ends_it_at_work():
    _, errors, codes = launch("exit_while_others_compute", "1", "7")
    assert errors == ["rank 1 died or hung without reporting an error; the launcher ended rank 0"]
    assert codes == {0: 2, 1: 7}


@pytest.mark.processes
def test_ranks_that_part_are_named():
    _, errors, codes = launch("part")
    assert len(errors) == 1
    assert errors[0].startswith(
        "the ranks call different collectives: rank 0 calls all_gather 'hidden' (float32 [4] along dim 0), "
        "rank 1 calls reduce_scatter 'gradient' (float32 [6] along dim 0)"
    )
    assert codes == {0: 2, 1: 2}


@pytest.mark.processes
def test_messages_that_wait_for_each_other_are_a_deadlock_with_both_calls():
    _, errors, codes = launch("both_receive")
    assert len(errors) == 1
    assert errors[0].startswith(
        "deadlock; rank 0 waits in receive 'h' (float32 [2] from rank 1); "
        "rank 1 waits in receive 'h' (float32 [2] from rank 0)"
    )
    assert codes == {0: 2, 1: 2}


@pytest.mark.processes
def test_a_rank_that_raises_before_it_sends_is_named():
    _, errors, codes = launch("raise_before_sending")
    assert errors[0].startswith("rank 0: OverflowError: too much")
    assert codes[0] == 2


def test_what_was_not_launched_says_how_to(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert not is_launched()
    with pytest.raises(CannotRunError, match=r"^this process was not launched: RANK, .* torchrun --nproc-per-node N"):
        make_world("launched")


@pytest.fixture
def launched_alone(monkeypatch):
    """The environment of the second of two ranks, whose first never comes."""
    environment = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


def test_launched_size_is_the_launchers(launched_alone):
    assert is_launched()
    world = make_world("launched", size=2)
    assert (world.size, world.speaks) == (2, False)
    with pytest.raises(CannotRunError, match="3 ranks were asked for, but 2 were launched: launch 3"):
        make_world("launched", size=3)


@pytest.mark.processes
def test_rank_whose_peers_never_come_gives_up(launched_alone):
    code = """
from shardproof.errors import CannotRunError
from shardproof.worlds.make import make_world
try:
    make_world("launched", timeout=1).run(print)
except CannotRunError as error:
    print(error)
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, env=os.environ)
    assert done.stdout.startswith("rank 1 could not join the other 1 within 1 s: ")
