"""A rank's process from the parent's side: its report, what it has from its parent, and its end with it."""

import os
from multiprocessing import Pipe

import pytest
from tests.worlds import rank_code

from shardproof.worlds.fork_server import ForkedProcess, Inherited, Surroundings
from shardproof.worlds.heartbeats import create_heartbeat_files
from shardproof.worlds.processgroup import CollectiveFailedError, is_effect
from shardproof.worlds.rank_main import run_rank
from shardproof.worlds.transport import pack, unpack

pytestmark = pytest.mark.processes


@pytest.fixture
def start(tmp_path):
    """Starts one rank: its process, and our end of its channel."""
    started = []

    def start(directory, fn, *args):
        directory.mkdir()
        (directory / "work").write_bytes(pack((fn, args)))
        create_heartbeat_files(directory, 1)
        ours, theirs = Pipe()
        environment = {**os.environ, "RANK": "0"}
        surroundings = Surroundings(
            environment=environment, folder=str(tmp_path), output=Inherited(2), error=Inherited(2), threads=1
        )
        options = {"rank": 0, "size": 1, "directory": str(directory), "channel": theirs, "timeout": 60}
        process = ForkedProcess(run_rank, options | {"surroundings": surroundings})
        theirs.close()
        started.append(process)
        return process, ours

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.close()


def test_the_result_is_reported_and_the_process_waits_to_be_ended(start, tmp_path):
    directory = tmp_path / "run"
    process, channel = start(directory, rank_code.echo, 7)
    with channel:
        assert unpack(channel.recv_bytes()) == ((0, 1, (7,)), None)
        assert process.poll() is None
        channel.send_bytes(b"end")
        assert process.wait(timeout=30) == 0
    assert (directory / "work").exists()  # the parent, which lives, removes the directory


def test_an_error_is_reported_with_its_trace(start, tmp_path):
    _, channel = start(tmp_path / "run", rank_code.raise_on, 0)
    with channel:
        result, failure = unpack(channel.recv_bytes())
    assert result is None
    assert failure.message.startswith("OverflowError: more than it can hold (")
    assert not failure.secondary
    assert "in raise_on" in failure.trace


def test_a_rank_has_its_surroundings_from_its_parent_and_not_from_the_server(start, tmp_path):
    _, channel = start(tmp_path / "run", rank_code.describe_surroundings)
    with channel:
        (environment, folder, threads, main), _ = unpack(channel.recv_bytes())
    assert environment == {**os.environ, "RANK": "0", "GLOO_SOCKET_IFNAME": "lo"}  # the last is the rank's own
    assert folder == str(tmp_path)
    assert threads == 1
    assert main is None  # the parent's script was not run again


CLOSED = RuntimeError("[/gloo/transport/tcp/pair.cc:5] Read error [127.0.0.1]:1: Connection reset by peer.\nmore")


def raised_from(error):
    outer = RuntimeError("\n  Failed to run stage backward")
    outer.__cause__ = error
    return outer


@pytest.mark.parametrize(
    ("error", "effect"),
    [
        (CLOSED, True),
        (raised_from(CLOSED), True),
        (CollectiveFailedError("all_reduce", CLOSED), True),
        (raised_from(ValueError("3 microbatches")), False),
        (RuntimeError("more\n[/gloo/transport/tcp/pair.cc:5]"), False),
    ],
)
def test_a_connection_that_another_rank_has_closed_is_no_cause(error, effect):
    """The parent waits for the report of the rank that closed it."""
    assert is_effect(error) is effect


def test_a_rank_whose_parent_died_removes_the_directory(start, tmp_path):
    directory = tmp_path / "run"
    process, channel = start(directory, rank_code.echo, 7)
    channel.recv_bytes()
    channel.close()  # as the kernel does when the parent is killed
    process.wait(timeout=30)
    assert not directory.exists()
