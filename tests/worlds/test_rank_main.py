"""A rank's process from the parent's side: its report, and its end when the parent closes its stdin."""

import json
import subprocess
import sys
from multiprocessing import Pipe

import pytest
from tests.worlds import rank_code

from shardproof.worlds.heartbeats import create_heartbeat_files
from shardproof.worlds.processgroup import CollectiveFailedError, is_effect
from shardproof.worlds.spawned import _BOOT
from shardproof.worlds.transport import pack, unpack

pytestmark = pytest.mark.processes


def start(directory, fn, *args):
    (directory / "work").write_bytes(pack((fn, args)))
    create_heartbeat_files(directory, 1)
    receiver, sender = Pipe(duplex=False)
    options = {"rank": 0, "size": 1, "directory": str(directory), "channel": sender.fileno(), "timeout": 60}
    process = subprocess.Popen(
        [sys.executable, "-c", _BOOT, json.dumps([sys.path, options | {"threads": 1}])],
        stdin=subprocess.PIPE,
        pass_fds=[sender.fileno()],
    )
    sender.close()
    return process, receiver


def test_the_result_is_reported_and_the_process_waits_to_be_ended(tmp_path):
    process, receiver = start(tmp_path, rank_code.echo, 7)
    with process, receiver:
        assert unpack(receiver.recv_bytes()) == ((0, 1, (7,)), None)
        assert process.poll() is None
        process.stdin.write(b".")
        process.stdin.close()
        assert process.wait(timeout=30) == 0
    assert (tmp_path / "work").exists()  # the parent, which lives, removes the directory


def test_an_error_is_reported_with_its_trace(tmp_path):
    process, receiver = start(tmp_path, rank_code.raise_on, 0)
    with process, receiver:
        result, failure = unpack(receiver.recv_bytes())
        process.stdin.write(b".")
    assert result is None
    assert failure.message.startswith("OverflowError: more than it can hold (")
    assert not failure.secondary
    assert "in raise_on" in failure.trace


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


def test_a_rank_whose_parent_died_removes_the_directory(tmp_path):
    directory = tmp_path / "run"
    directory.mkdir()
    process, receiver = start(directory, rank_code.echo, 7)
    with process, receiver:
        receiver.recv_bytes()
        process.stdin.close()  # as the kernel does when the parent is killed
        process.wait(timeout=30)
    assert not directory.exists()
