"""Ranks that are threads: what one changes in modules and classes is its own, and gone after the run."""

import importlib
import os
import sys
import threading
import types

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from tests.worlds import parallel_state

from shardproof.errors import CannotRunError
from shardproof.worlds.rank_globals import is_users_module
from shardproof.worlds.threaded import ThreadedWorld

pytestmark = pytest.mark.filterwarnings("error")


def expected_state(rank):
    return {
        "RANK": rank,
        "GROUPS": rank,
        "ORDER": ["b", "a"] if rank % 2 else ["a", "b"],
        "LOG": [rank],
        "SEEN": [rank],
        "QUEUE": [rank, 0],
        "COUNTS": {rank: 1},
        "NAMESPACE": rank,
        "BYTES": rank,
        "class": rank,
        "class dict": [rank],
        "instance": [rank],
        "slot": (rank, rank),
        "new name": [f"only_on_{rank}"],
    }


def set_and_look(comm):
    parallel_state.set_rank(comm.rank)
    dist.barrier()
    first = parallel_state.state()
    dist.barrier()
    return first, parallel_state.state()


@pytest.mark.parametrize("size", [2, 4])
def test_every_rank_sees_its_own_and_the_process_its_own_again(size):
    before = parallel_state.state()
    for rank, (first, second) in enumerate(ThreadedWorld(size=size).run(set_and_look)):
        assert first == second == expected_state(rank)
    assert parallel_state.state() == before


def test_a_module_under_two_names_is_watched(monkeypatch):
    monkeypatch.setitem(sys.modules, "another_name_of_it", parallel_state)
    for rank, (first, second) in enumerate(ThreadedWorld(size=2).run(set_and_look)):
        assert first == second == expected_state(rank)


def test_without_separation_the_ranks_would_share(monkeypatch):
    # The negative control of the test above.
    monkeypatch.setattr("shardproof.worlds.rank_globals.is_users_module", lambda _name: False)
    try:
        (first, _), *_ = ThreadedWorld(size=2).run(set_and_look)
        assert first["RANK"] == 1
        assert first["LOG"] == [0, 1]
    finally:
        importlib.reload(parallel_state)


def use_functions(comm):
    found = [parallel_state.once(comm.rank), parallel_state.remember(comm.rank), parallel_state.cached_rank()]
    for _ in range(comm.rank + 1):
        parallel_state.counted()
    dist.barrier()
    return [
        *found,
        parallel_state.once(7),
        parallel_state.remember(7),
        parallel_state.cached_rank(),
        parallel_state.counted(),
        torch.rand(1, generator=parallel_state.GENERATOR).item(),
    ]


def test_state_of_functions_is_each_ranks_own():
    torch.Generator().manual_seed(5)
    drawn = torch.rand(1, generator=torch.Generator().manual_seed(5)).item()
    assert ThreadedWorld(size=3).run(use_functions) == [
        [rank, [rank], rank, rank, [rank, 7], rank, rank + 2, drawn] for rank in range(3)
    ]
    assert parallel_state.counted.calls == 0


def change(comm, name):
    if comm.rank == 0:
        parallel_state.INSEPARABLE[name]()
    dist.barrier()


@pytest.mark.parametrize("name", parallel_state.INSEPARABLE)
def test_what_cannot_be_taken_apart_is_refused_in_one_line(name):
    with pytest.raises(CannotRunError) as caught:
        ThreadedWorld(size=2).run(change, name)
    message = str(caught.value)
    assert f"rank 0 changed tests.worlds.parallel_state.{name}, which ranks that are threads" in message
    assert message.endswith("run the ranks as processes: spawn=True, --spawn")
    assert "\n" not in message


def write_own(comm):
    """As a layer that keeps its work space in a global dictionary, and writes into it step after step."""
    work = parallel_state.WORK.setdefault("rows", torch.zeros(2))
    for _step in range(3):
        dist.barrier()
        work.add_(comm.rank + 1)
    dist.barrier()
    return work.tolist(), list(parallel_state.WORK)


def test_a_tensor_that_a_rank_has_made_is_its_own():
    assert ThreadedWorld(size=2).run(write_own) == [([3.0, 3.0], ["rows"]), ([6.0, 6.0], ["rows"])]
    assert parallel_state.WORK == {}


def write_shared(comm, tensors, turn):
    """Rank 0 keeps its tensor at once and writes into it, rank 1 keeps its own in a later turn."""
    for step in range(4):
        if step == comm.rank * turn:
            parallel_state.WORK["rows"] = tensors[comm.rank]
        dist.barrier()
        if comm.rank == 0:
            parallel_state.WORK["rows"].add_(1)
    dist.barrier()


@pytest.mark.parametrize("turn", [0, 2])
def test_a_tensor_that_two_ranks_keep_is_refused(turn):
    one = torch.zeros(2)
    ThreadedWorld(size=2).run(write_shared, [torch.zeros(2), torch.zeros(2)], turn)
    with pytest.raises(CannotRunError, match=r"rank 0 changed tests.worlds.parallel_state.WORK\['rows'\], which ranks"):
        ThreadedWorld(size=2).run(write_shared, [one, one], turn)


def read_only(comm):
    assert parallel_state.TABLE.sum() == parallel_state.TABLE.sum()
    dist.barrier()
    return comm.rank


def test_reading_it_is_no_change():
    assert ThreadedWorld(size=2).run(read_only) == [0, 1]


def patch(comm):
    parallel_state.Context.name = lambda _self: f"patched on {comm.rank}"
    F.gelu = lambda x: x + comm.rank
    torch.nn.Linear.forward = lambda _self, x: x * comm.rank
    dist.barrier()
    return parallel_state.CONTEXT.name(), F.gelu(torch.ones(1)).item(), torch.nn.Linear(1, 1)(torch.ones(1)).item()


def test_patches_of_users_and_of_pytorchs_classes_do_not_outlast_the_run():
    gelu, forward = F.gelu, torch.nn.Linear.forward
    try:
        assert ThreadedWorld(size=2).run(patch) == [("patched on 0", 1, 0), ("patched on 1", 2, 1)]
        assert parallel_state.CONTEXT.name() == "original"
        assert F.gelu is gelu
        assert torch.nn.Linear.forward is forward
    finally:
        F.gelu, torch.nn.Linear.forward = gelu, forward


def patch_late(comm):
    for _ in range(30):
        dist.barrier()
    if comm.rank == 1:
        F.silu = lambda x: x
    dist.barrier()


def test_a_late_patch_of_pytorch_is_undone_and_refused():
    silu = F.silu
    try:
        with pytest.raises(CannotRunError, match=r"changed torch\.nn\.functional, which ranks that are threads"):
            ThreadedWorld(size=2).run(patch_late)
        assert F.silu is silu
    finally:
        F.silu = silu


def fail_after_change(comm):
    parallel_state.set_rank(comm.rank)
    dist.barrier()
    if comm.rank == 1:
        raise OverflowError("too much")
    dist.barrier()


def test_a_run_that_fails_leaves_nothing_behind():
    before = parallel_state.state()
    with pytest.raises(CannotRunError, match="rank 1: OverflowError: too much"):
        ThreadedWorld(size=2).run(fail_after_change)
    assert parallel_state.state() == before


def set_environment(comm):
    os.environ["LOCAL_RANK"] = str(comm.rank)
    dist.barrier()
    return os.environ["LOCAL_RANK"]


def test_environment_variables_are_each_ranks_own(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert ThreadedWorld(size=2).run(set_environment) == ["0", "1"]
    assert "LOCAL_RANK" not in os.environ


def import_and_set(comm, name):
    module = importlib.import_module(name)
    seen_first = module.RANK
    module.RANK = comm.rank
    dist.barrier()
    return seen_first, module.RANK


def test_a_module_imported_by_a_rank_is_clean_for_the_others(tmp_path, monkeypatch):
    (tmp_path / "lazy_parallel_state.py").write_text("RANK = 'none'\n")
    monkeypatch.syspath_prepend(tmp_path)
    try:
        assert ThreadedWorld(size=2).run(import_and_set, "lazy_parallel_state") == [("none", 0), ("none", 1)]
        assert sys.modules["lazy_parallel_state"].RANK == "none"
    finally:
        sys.modules.pop("lazy_parallel_state", None)


def test_modules_of_libraries_are_not_the_users():
    assert is_users_module("__main__")
    assert is_users_module("megatron.core.parallel_state")
    for name in ("torch.nn", "os", "shardproof.worlds.turns", "numpy", "transformers.models.llama", "_pytest.python"):
        assert not is_users_module(name)
    assert not is_users_module(None)


def change_by_name(comm):
    sys.modules["unreached" + "_state"].value = comm.rank
    return comm.rank


def test_a_change_that_no_reference_leads_to_is_undone_and_refused(monkeypatch):
    state = types.ModuleType("unreached_state")
    state.value = "as it was"
    monkeypatch.setitem(sys.modules, "unreached_state", state)
    with pytest.raises(CannotRunError, match="spawn=True"):
        ThreadedWorld(size=2).run(change_by_name)
    assert state.value == "as it was"


def list_threads(comm):
    dist.barrier()
    return threading.current_thread().name, sorted(
        thread.name for thread in threading.enumerate() if "rank" in thread.name
    )


def test_pythons_own_list_of_threads_stays_whole_where_a_module_names_it(monkeypatch):
    # As modules of a debugger do, which a notebook's kernel imports.
    monkeypatch.setattr(parallel_state, "THREADS", threading._active, raising=False)
    for own, seen in ThreadedWorld(size=3).run(list_threads):
        assert own in seen
    assert not [thread for thread in threading.enumerate() if "rank" in thread.name and thread.is_alive()]


@pytest.mark.parametrize(
    "name", ["zmq.sugar", "tornado.ioloop", "_pydevd_bundle.x", "pydevd_tracing", "jupyter_client"]
)
def test_modules_of_a_notebooks_kernel_are_not_the_users(name):
    assert not is_users_module(name)
