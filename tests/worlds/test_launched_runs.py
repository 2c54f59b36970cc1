"""Several runs of one launched program under torchrun: what they give, and how they end."""

import re
from pathlib import Path

import pytest
import torch.distributed as dist
from tests.worlds.test_launched import launch as launch_script

from shardproof.errors import CannotRunError
from shardproof.worlds.launched_runs import launched_runs

SCRIPT = Path(__file__).with_name("launch_runs.py")


def launch(*arguments):
    return launch_script(*arguments, script=SCRIPT)


@pytest.mark.processes
def test_two_runs_give_what_simulated_gives():
    done, errors, codes = launch("every_collective", "3")
    assert done.stdout == "bitwise the simulated world's: True\n"
    assert (errors, codes, done.returncode) == ([], {}, 0)


@pytest.mark.processes
def test_after_a_failed_run_another_is_taken():
    done, errors, codes = launch("again")
    assert done.stdout.startswith("failed: rank 1: OverflowError: more than it can hold")
    assert done.stdout.endswith("\nbitwise the simulated world's: True\n")
    assert (errors, codes, done.returncode) == ([], {}, 0)


@pytest.mark.processes
def test_a_rank_that_raises_is_named_once_and_both_exit_with_2():
    done, errors, codes = launch("raise_on", "1")
    assert done.stdout == ""
    assert len(errors) == 1
    assert errors[0].startswith("rank 1: OverflowError: more than it can hold (")
    assert codes == {0: 2, 1: 2}


@pytest.mark.processes
def test_a_rank_that_dies_ends_all():
    _, errors, codes = launch("exit_on", "1", "7")
    assert len(errors) == 1
    assert re.match(r"rank 1 died or hung without reporting an error; rank 0: |the launcher ended rank 0", errors[0])
    assert codes == {0: 2, 1: 7}


@pytest.mark.processes
def test_a_rank_that_hangs_is_named_after_the_timeout():
    _, errors, codes = launch("part")
    assert len(errors) == 1
    assert codes[0] == 2


def test_what_was_not_launched_says_how_to(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(CannotRunError, match=r"this process was not launched: RANK"), launched_runs(timeout=1):
        pass


def test_a_group_of_the_script_is_in_the_way(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    with pytest.raises(CannotRunError, match="prove before your script calls init_process_group"):
        launched_runs(timeout=1).__enter__()
