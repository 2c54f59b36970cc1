"""The spawned world against the simulated one, bit by bit, and its end when ranks raise, die, hang or part."""

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from pathlib import Path

import pytest
import torch
from tests.worlds import rank_code

from shardproof.errors import CannotRunError
from shardproof.worlds.fork_server import ForkedProcess
from shardproof.worlds.processgroup import bound_reordering
from shardproof.worlds.simulated import SimulatedWorld
from shardproof.worlds.spawned import SpawnedWorld

pytestmark = pytest.mark.processes


def list_children(parent):
    """The processes whose parent is `parent`, zombies included."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            content = stat.read_text()
        except OSError:  # it has ended since the listing
            continue
        if int(content.rsplit(")", 1)[1].split()[1]) == parent:
            found.add(int(stat.parent.name))
    return found


def list_ranks(parent):
    """The processes forked by the fork server of `parent`."""
    return {rank for child in list_children(parent) for rank in list_children(child)}


def list_shared():
    """The shared-memory files that PyTorch makes for tensors in transit."""
    return set(Path("/dev/shm").glob("torch_*"))


@pytest.fixture(autouse=True)
def nothing_left_behind(tmp_path, monkeypatch):
    """After each test: no process but the fork server, no file in the temporary directory, none in shared memory."""
    ForkedProcess(print, {}).wait()  # the server, and the folder of its socket, live as long as this process
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    children, shared = list_children(os.getpid()), list_shared()
    yield
    assert list_children(os.getpid()) <= children
    assert list_ranks(os.getpid()) == set()
    assert list(tmp_path.iterdir()) == []
    assert list_shared() <= shared


def test_listing_sees_a_child():
    # The negative control of the fixture above.
    before = list_children(os.getpid())
    with subprocess.Popen(["sleep", "60"]) as child:
        assert list_children(os.getpid()) - before == {child.pid}
        child.kill()


@pytest.mark.parametrize("size", [2, 3, 4])
def test_spawned_gives_what_simulated_gives(size):
    """Bitwise, but for sums over more than two ranks, which gloo's ring adds in another order, within the bound."""
    spawned = SpawnedWorld(size=size).run(rank_code.every_collective, 5)
    simulated = SimulatedWorld(size=size).run(rank_code.every_collective, 5)
    reordered = 0
    for rank in range(size):
        assert spawned[rank].keys() == simulated[rank].keys()
        for key, actual in spawned[rank].items():
            expected = simulated[rank][key]
            collective, dtype, shape, dim, _ = key
            assert actual.dtype == expected.dtype
            assert actual.shape == expected.shape
            assert actual.stride() == expected.stride()
            if size == 2 or collective == "all_gather":
                assert torch.equal(actual, expected), key
                continue
            kind = getattr(torch, dtype.removeprefix("torch."))
            bound = bound_reordering([rank_code.draw(shape, kind, 5 + 1 + other) for other in range(size)])
            if collective == "reduce_scatter":
                # bound holds for the whole; its shard is cut as the sum was
                bound = SimulatedWorld(size=size).run(cut, bound, dim)[rank]
            assert ((actual.double() - expected.double()).abs() <= bound).all(), key
            reordered += not torch.equal(actual, expected)
    # If gloo ever adds in rank order, the documentation should promise more.
    assert (reordered > 0) == (size > 2)


def cut(comm, whole, dim):
    return comm.reduce_scatter(whole if comm.rank == 0 else torch.zeros_like(whole), dim=dim, name="bound")


def test_all_replicas_of_a_sum_are_equal():
    results = SpawnedWorld(size=3).run(rank_code.every_collective, 1)
    for key in (key for key in results[0] if key[0] == "all_reduce"):
        assert torch.equal(results[0][key], results[1][key])
        assert torch.equal(results[0][key], results[2][key])


def test_a_step_is_bitwise_the_same_and_arguments_keep_their_layout():
    x = rank_code.draw((16, 12), torch.float32, 0).T.contiguous().T
    w = rank_code.draw((7, 12), torch.float32, 1)
    spawned = SpawnedWorld(size=2).run(rank_code.step, x, w)
    for actual, expected in zip(spawned, SimulatedWorld(size=2).run(rank_code.step, x, w), strict=True):
        for name in expected:
            assert torch.equal(actual[name], expected[name]), name


def test_one_rank():
    assert SpawnedWorld(size=1).run(rank_code.echo, "a", [torch.float32]) == [(0, 1, ("a", [torch.float32]))]


def test_ranks_print_to_stderr_and_share_the_cores(capfd):
    threads = SpawnedWorld(size=2).run(rank_code.print_and_warn)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == ["rank 0 says hello"]
    assert threads == [max(1, len(os.sched_getaffinity(0)) // 2)] * 2


@pytest.mark.parametrize(
    ("fn", "args", "said"),
    [
        (rank_code.raise_on, (1,), "rank 1: OverflowError: more than it can hold"),
        (rank_code.exit_on, (1, 7), "rank 1 ended with exit code 7 before it had a result"),
        (rank_code.kill_on, (0,), "rank 0 was ended by SIGKILL"),
        (rank_code.return_on, (1,), "rank 1 ended while rank 0 waits in all_reduce 'second' (float32 [2])"),
        (
            rank_code.part,
            (),
            (
                "the ranks call different collectives: rank 0 calls all_gather 'hidden' (float32 [4] along dim 0), "
                "rank 1 calls reduce_scatter 'gradient' (float32 [6] along dim 0)"
            ),
        ),
    ],
    ids=["raise", "exit", "kill", "return", "part"],
)
def test_failure_names_the_rank_and_its_error(fn, args, said):
    started = time.monotonic()
    with pytest.raises(CannotRunError) as caught:
        SpawnedWorld(size=2, timeout=60).run(fn, *args)
    # Not a matter of speed: it ended because the failure was seen, and not because time had run out.
    assert time.monotonic() - started < 60
    message = str(caught.value)
    assert message.startswith(said)
    assert "\n" not in message
    if said.startswith("rank 1: "):
        assert any("in raise_on" in note for note in caught.value.__notes__)


def test_rank_that_hangs_ends_the_run_within_the_timeout():
    started = time.monotonic()
    with pytest.raises(CannotRunError) as caught:
        SpawnedWorld(size=3, timeout=2).run(rank_code.hang_on, 1)
    assert str(caught.value) == (
        "rank 1 made no progress for 2 s; rank 1 is in hang_on at rank_code.py:77; "
        "ranks 0, 2 wait in all_reduce 'second' (float32 [2])"
    )
    assert time.monotonic() - started < 2 + 3 * 10 + 10


def test_what_cannot_travel_starts_nothing():
    lock = threading.Lock()
    with pytest.raises(CannotRunError, match="cannot send a value"):
        SpawnedWorld(size=2).run(lambda comm: (comm.rank, lock))


def test_a_closure_travels():
    factor = 4
    assert SpawnedWorld(size=2).run(lambda comm: comm.rank * factor) == [0, 4]


@pytest.mark.parametrize(("options", "said"), [({"size": 0}, "0 ranks"), ({"size": 2, "timeout": 0.0}, "0.0 s")])
def test_impossible_worlds_are_refused(options, said):
    with pytest.raises(CannotRunError, match=said):
        SpawnedWorld(**options)


def run_script(directory, *arguments, text=None):
    return subprocess.run(
        [sys.executable, *arguments], input=text, capture_output=True, text=True, check=False, cwd=directory
    )


@pytest.fixture
def script(tmp_path_factory):
    """A program that spawns two ranks of a function of its own."""
    file = tmp_path_factory.mktemp("program") / "program.py"
    file.write_text(
        textwrap.dedent("""
        from shardproof.worlds.spawned import SpawnedWorld

        class Tens(int):
            pass

        def fn(comm):
            result = Tens(comm.rank * 10)
            assert type(result).__name__ == "Tens"
            return result

        if __name__ == "__main__":
            print(SpawnedWorld(size=2).run(fn))
        """)
    )
    return file


def test_script_spawns_its_own_function(script):
    done = run_script(script.parent, script.name)
    assert (done.stdout, done.stderr) == ("[0, 10]\n", "")


def test_script_without_a_guard_spawns_where_its_function_travels_by_value_and_is_told_so_where_it_runs_again(script):
    text = script.read_text().replace('if __name__ == "__main__":', "if True:")
    script.write_text(text)
    assert run_script(script.parent, script.name).stdout == "[0, 10]\n"
    script.write_text("import threading\nlock = threading.Lock()\n" + text.replace("assert", "assert lock and"))
    done = run_script(script.parent, script.name)
    assert done.returncode == 1
    assert 'put that below `if __name__ == "__main__":`' in done.stderr.strip()


def test_stdin_spawns_a_function_of_a_module(script):
    code = """
import program
from shardproof.worlds.spawned import SpawnedWorld
print(SpawnedWorld(size=2).run(program.fn))
"""
    done = run_script(script.parent, "-", text=code)
    assert (done.stdout, done.stderr) == ("[0, 10]\n", "")


def test_module_run_by_name_spawns_its_own_function(script):
    done = run_script(script.parent, "-m", "program")
    assert (done.stdout, done.stderr) == ("[0, 10]\n", "")


def start_hanging(script):
    script.write_text(script.read_text().replace("return result", "import time; time.sleep(600)"))
    (script.parent / "scratch").mkdir()
    parent = subprocess.Popen(
        [sys.executable, script.name],
        cwd=script.parent,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(script.parent / "scratch")},
    )
    until = time.monotonic() + 60
    while len(ranks := list_ranks(parent.pid)) < 2 and time.monotonic() < until:
        time.sleep(0.05)
    assert len(ranks) == 2
    return parent, ranks | list_children(parent.pid)


def wait_for_end(children):
    until = time.monotonic() + 30
    while any(Path(f"/proc/{child}").exists() for child in children) and time.monotonic() < until:
        time.sleep(0.05)
    return [child for child in children if Path(f"/proc/{child}").exists()]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_ranks_end_with_their_parent(script, number):
    parent, children = start_hanging(script)
    parent.send_signal(number)
    with parent:
        parent.wait(timeout=30)
    assert wait_for_end(children) == []
    assert list((script.parent / "scratch").iterdir()) == []
