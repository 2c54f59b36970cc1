"""Commands that torchrun started: who runs, who speaks, and with which exit code."""

import os

import pytest

from shardproof.cli.launch import count_launched, current_runs, led_by_rank_zero, rank_zero_speaks
from shardproof.errors import CannotRunError
from shardproof.worlds import launched_runs as module

NEEDED = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


@pytest.fixture
def as_rank(monkeypatch):
    def set_rank(rank, size=2):
        for name, value in (NEEDED | {"RANK": str(rank), "WORLD_SIZE": str(size)}).items():
            monkeypatch.setenv(name, value)

    return set_rank


class Runs:
    """Runs without processes."""

    def __init__(self, result):
        self.speaks = os.environ["RANK"] == "0"
        self.result, self.published = result, []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return False

    def follow(self):
        return self.result

    def publish(self, result):
        self.published.append(result)


def test_launched_processes_are_counted(as_rank, monkeypatch):
    as_rank(1, size=4)
    assert count_launched() == 4
    monkeypatch.delenv("MASTER_ADDR")
    assert count_launched() is None
    monkeypatch.delenv("WORLD_SIZE")
    assert count_launched() is None


def test_rank_zero_runs_the_command_and_publishes_its_exit_code(as_rank, monkeypatch):
    as_rank(0)
    runs = Runs(None)
    monkeypatch.setattr(module, "launched_runs", lambda _timeout: runs)
    seen = []

    @led_by_rank_zero
    def command(*, timeout):
        seen.append((timeout, current_runs()))
        return 1

    assert command(timeout=5.0) == 1
    assert seen == [(5.0, runs)]
    assert runs.published == [1]
    assert current_runs() is None


def test_another_rank_follows_and_has_that_exit_code(as_rank, monkeypatch):
    as_rank(1)
    monkeypatch.setattr(module, "launched_runs", lambda _timeout: Runs(1))

    @led_by_rank_zero
    def command(*, timeout):
        raise AssertionError(timeout)

    assert command(timeout=5.0) == 1


@pytest.mark.parametrize("size", [None, 1])
def test_a_command_that_was_not_launched_or_alone_just_runs(as_rank, monkeypatch, size):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    if size is not None:
        as_rank(0, size)

    @led_by_rank_zero
    def command(*, timeout):
        assert current_runs() is None
        return int(timeout)

    assert command(timeout=2.0) == 2


def test_an_error_of_all_ranks_is_raised_on_rank_zero_alone(as_rank, monkeypatch):
    monkeypatch.setattr("shardproof.cli.launch.time.sleep", lambda _seconds: None)
    as_rank(0)
    with pytest.raises(CannotRunError, match="bad"), rank_zero_speaks(2):
        raise CannotRunError("bad")
    as_rank(1)
    with pytest.raises(SystemExit) as left, rank_zero_speaks(2):
        raise CannotRunError("bad")
    assert left.value.code == 2
    with pytest.raises(CannotRunError, match="bad"), rank_zero_speaks(None):
        raise CannotRunError("bad")
