"""Processes forked from a server that has imported PyTorch; what this takes from the inside of `multiprocessing`."""

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import Pipe
from pathlib import Path

import pytest
import torch

from shardproof.worlds.fork_server import ForkedProcess, Inherited
from shardproof.worlds.spawned import SpawnedWorld

pytestmark = pytest.mark.processes


def report(channel, file):
    """Run in the process."""
    os.write(file.number, b"written by the process")
    channel.send((os.getppid(), "torch" in sys.modules, sys.argv[0], multiprocessing.current_process().daemon))


def test_a_process_has_what_it_is_given_and_ends_by_itself(tmp_path):
    ours, theirs = Pipe()
    with (tmp_path / "file").open("wb") as file:
        process = ForkedProcess(report, {"channel": theirs, "file": Inherited(file.fileno())})
    with ours, theirs:
        parent, has_torch, script, daemon = ours.recv()
    assert parent != os.getpid()
    assert has_torch
    assert script == sys.argv[0]
    assert not daemon
    assert process.wait(timeout=30) == 0
    assert (tmp_path / "file").read_text() == "written by the process"


def test_all_are_forked_from_one_server():
    parents = set()
    for _ in range(2):
        ours, theirs = Pipe()
        with Path(os.devnull).open("wb") as file, ours, theirs:
            ForkedProcess(report, {"channel": theirs, "file": Inherited(file.fileno())})
            parents.add(ours.recv()[0])
    assert len(parents) == 1


def test_how_a_process_was_ended_is_known():
    process = ForkedProcess(signal.pause, {})
    assert process.poll() is None
    process.kill()
    assert process.wait(timeout=30) == -signal.SIGKILL


@pytest.mark.parametrize("preloaded", ["", "multiprocessing.set_forkserver_preload(['json'])"], ids=["plain", "own"])
def test_the_fork_server_of_a_program_stays_its_own_and_its_script_is_run_once(tmp_path, preloaded):
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(f"""
        import multiprocessing, sys
        from shardproof.worlds.spawned import SpawnedWorld
        print("run", flush=True)

        def own():
            print("torch" in sys.modules, "json" in sys.modules, flush=True)

        if __name__ == "__main__":
            {preloaded}
            assert SpawnedWorld(size=2).run(lambda comm: comm.rank) == [0, 1]
            process = multiprocessing.get_context("forkserver").Process(target=own)
            process.start()
            process.join()
        """)
    )
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, check=False)
    # Once by us; and by `multiprocessing`, for a process of the program's own.
    assert done.stdout.splitlines()[:2] == ["run", "run"], done.stderr
    assert len(done.stdout.splitlines()) == 3


def in_a_daemon(channel):
    channel.send(SpawnedWorld(size=2).run(pow_of_rank))


def pow_of_rank(comm):
    return 2**comm.rank


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_a_daemon_of_multiprocessing_may_spawn_ranks(method):
    """A worker of a pool is one. A fork of this process, which has a server, needs one of its own."""
    ours, theirs = Pipe()
    context = multiprocessing.get_context(method)
    process = context.Process(target=in_a_daemon, args=(theirs,), daemon=True)
    process.start()
    with ours, theirs:
        assert ours.poll(60)
        assert ours.recv() == [1, 2]
    process.join(30)
    assert process.exitcode == 0


PROGRAM = """
import os, signal, sys
from multiprocessing import Pipe
from shardproof.worlds import fork_server
from shardproof.worlds.spawned import SpawnedWorld

assert SpawnedWorld(size=2).run(lambda comm: comm.rank) == [0, 1]
{then}
assert SpawnedWorld(size=2).run(lambda comm: comm.rank) == [0, 1]
print("both")
"""


@pytest.mark.parametrize(
    "then",
    ["", "server = fork_server.start_server(); os.kill(server._forkserver_pid, signal.SIGKILL)", "os.environ.clear()"],
    ids=["as it is", "killed", "without variables"],
)
def test_a_server_that_died_is_started_again_and_its_socket_may_be_in_a_deep_folder(tmp_path, then):
    deep = tmp_path / ("x" * 60) / ("y" * 60)
    deep.mkdir(parents=True)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(then=then)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TMPDIR": str(deep)},
    )
    assert (done.stdout, done.stderr) == ("both\n", "")
    assert list(deep.iterdir()) == []


def load_data(comm):
    """A rank with workers of its own."""
    data = torch.utils.data.DataLoader(torch.arange(4), batch_size=2, num_workers=1)
    return [batch.tolist() for batch in data]


def test_a_rank_may_have_workers_that_load_data():
    assert SpawnedWorld(size=2).run(load_data) == [[[0, 1], [2, 3]]] * 2


def test_ranks_are_spawned_from_any_thread():
    with ThreadPoolExecutor(max_workers=2) as threads:
        runs = [threads.submit(SpawnedWorld(size=2).run, pow_of_rank) for _ in range(2)]
        assert [run.result(timeout=60) for run in runs] == [[1, 2], [1, 2]]
