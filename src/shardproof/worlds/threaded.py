"""The threaded world: every rank is a thread with a `torch.distributed` of its own, and the threads take turns.

For per-rank code that is not written against `Communicator`: DTensor, transformers' plans, Megatron-style functions.
`dist.get_rank()`, groups, meshes, the states of random generators and what a rank changes in Python's modules and
classes are each thread's own, as in a process.

The only file that uses PyTorch's world for threads, which PyTorch has for its own tests.
"""

from __future__ import annotations

import os
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore

from shardproof.errors import CannotRunError
from shardproof.worlds.processgroup import ProcessGroupCommunicator
from shardproof.worlds.randomness import randomness_kept
from shardproof.worlds.rank_environment import find_free_port, make_environment
from shardproof.worlds.rank_globals import RankGlobals
from shardproof.worlds.rank_meshes import meshes_told_apart, tell_meshes_apart
from shardproof.worlds.shared_shapes import shapes_shared
from shardproof.worlds.thread_group import Exchanges, ThreadGroup, join_exchanges
from shardproof.worlds.turns import Turns
from shardproof.worlds.world import DEFAULT_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from shardproof.worlds.communicator import Communicator
    from shardproof.worlds.world import R, Ts

_BACKEND = "shardproof_threads"


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadedWorld:
    """One thread a rank, in turns; see `World`.

    A run is given up when no turn ends for `timeout` seconds; a rank that never comes back stays behind as a daemon.
    """

    size: int
    timeout: float = DEFAULT_TIMEOUT

    def __post_init__(self) -> None:
        if self.size < 1:
            raise CannotRunError(f"a world of {self.size} ranks was asked for; give at least 1")

    @property
    def speaks(self) -> bool:
        return True

    def run(self, fn: Callable[[Communicator, *Ts], R], *args: *Ts) -> list[R]:
        if dist.is_initialized():
            raise CannotRunError(
                "torch.distributed is already initialised in this process, and the ranks need it for themselves: run "
                "them in a process of their own, or destroy_process_group() first"
            )
        results: dict[int, R] = {}
        with _threads_as_ranks(), meshes_told_apart(), shapes_shared(), randomness_kept():
            turns = Turns(size=self.size, rank_globals=RankGlobals(roots=(fn, args)))
            exchanges = Exchanges(turns=turns)
            port = find_free_port()
            threads = [
                threading.Thread(
                    target=_run_rank, args=(rank, port, exchanges, results, fn, args), daemon=True, name=f"rank {rank}"
                )
                for rank in range(self.size)
            ]
            with turns.rank_globals.imports_watched():
                for thread in threads:
                    thread.start()
                turns.watch(threads, self.timeout)
            turns.leave_process_as_it_was()
        turns.report()
        exchanges.check_messages()
        return [results[rank] for rank in range(self.size)]


def _run_rank(
    rank: int, port: int, exchanges: Exchanges, results: dict[int, Any], fn: Callable[..., Any], args: tuple[Any, ...]
) -> None:
    error: BaseException | None = None
    turns = exchanges.turns
    join_exchanges(rank, exchanges)
    tell_meshes_apart()
    try:
        turns.begin(rank)
        os.environ.update(make_environment(rank, turns.size, port))  # this rank's own, see rank_globals.py
        torch.set_num_threads(torch.get_num_threads())  # OpenMP's number of threads is each thread's own
        dist.init_process_group(_BACKEND, rank=rank, world_size=turns.size, store=HashStore())
        group = dist.group.WORLD
        assert group is not None
        results[rank] = fn(ProcessGroupCommunicator(group=group), *args)
        dist.destroy_process_group()
    except BaseException as caught:  # noqa: BLE001 - the caller reports whatever ends a rank
        error = caught
    turns.end(rank, error)


@contextmanager
def _threads_as_ranks() -> Iterator[None]:
    """Give each thread a `torch.distributed` of its own."""
    from torch.testing._internal.distributed import multi_threaded_pg as threaded

    if _BACKEND not in dist.Backend.backend_list:
        dist.Backend.register_backend(_BACKEND, _make_group, devices=["cpu", "cuda"])
    isolate: Callable[[bool], None] = torch._C._distributed_c10d._set_thread_isolation_mode  # type: ignore[attr-defined]  # noqa: SLF001
    isolate(True)
    hook = sys.excepthook  # PyTorch puts another in its place, which writes a rank before each line
    threaded._install_threaded_pg()  # noqa: SLF001
    try:
        yield
    finally:
        threaded._uninstall_threaded_pg()  # noqa: SLF001
        isolate(False)
        sys.excepthook = hook


def _make_group(_store: Any, rank: int, size: int, _timeout: Any) -> ThreadGroup:
    """A group without PyTorch's own wait for the other ranks: while one rank waits in a store, no other runs."""
    world: Any = dist.distributed_c10d._world  # noqa: SLF001
    return ThreadGroup(rank, size, world._get_world())  # noqa: SLF001 - this thread's
