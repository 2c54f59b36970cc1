"""The threaded world: every rank is a thread with a `torch.distributed` of its own, and the threads take turns.

For per-rank code that is not written against `Communicator`: DTensor, transformers' plans, Megatron-style functions.
`dist.get_rank()`, groups, meshes and the states of random generators are each thread's own, as in a process. One rank
runs at a time, in rank order, until its next collective: there are no data races, every run has the same order, and a
deadlock is detected at once.

The only file that uses PyTorch's process group for threads, which PyTorch has for its own tests.
"""

from __future__ import annotations

import threading
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore

from shardproof.errors import CannotRunError
from shardproof.worlds.processgroup import ProcessGroupCommunicator
from shardproof.worlds.randomness import Randomness, randomness_kept
from shardproof.worlds.reduce_scatter import ReduceScatter
from shardproof.worlds.world import DEFAULT_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from shardproof.worlds.communicator import Communicator
    from shardproof.worlds.world import R, Ts

_BACKEND = "shardproof_threads"
_thread = threading.local()


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
        turns = _Turns(size=self.size)
        results: dict[int, R] = {}
        with _threads_as_ranks(), randomness_kept():
            threads = [
                threading.Thread(
                    target=_run_rank, args=(rank, turns, results, fn, args), daemon=True, name=f"rank {rank}"
                )
                for rank in range(self.size)
            ]
            for thread in threads:
                thread.start()
            turns.watch(threads, self.timeout)
        turns.report()
        return [results[rank] for rank in range(self.size)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Failure:
    rank: int
    error: BaseException


@dataclass(slots=True, kw_only=True)
class _Turns:
    """Which rank runs, and what each of the others waits for."""

    size: int
    changed: threading.Condition = field(default_factory=threading.Condition)
    current: int = 0
    begun: int = 0
    turns: int = 0
    waiting: dict[int, str] = field(default_factory=dict)
    ended: set[int] = field(default_factory=set)
    failures: list[_Failure] = field(default_factory=list)
    over: bool = False
    randomness: Randomness = field(default_factory=Randomness.now)  # every rank starts with it

    def begin(self, rank: int) -> None:
        """Wait for the first turn, which begins when every thread has started: from then on one runs at a time."""
        with self.changed:
            self.begun += 1
            self.changed.notify_all()
            self.changed.wait_for(lambda: self.over or (self.begun == self.size and self.current == rank))
        self._leave_if_over()
        self.randomness.restore()

    def wait_until(self, rank: int, done: Callable[[], bool], what: str) -> None:
        """Let the other ranks run until `done`."""
        own = Randomness.now()
        with self.changed:
            self.waiting[rank] = what
            self._pass_on(rank)
            self.changed.wait_for(lambda: self.over or (self.current == rank and done()))
        self._leave_if_over()
        own.restore()

    def release(self, ranks: list[int]) -> None:
        """These ranks no longer wait."""
        with self.changed:
            for rank in ranks:
                self.waiting.pop(rank, None)

    def end(self, rank: int, error: BaseException | None) -> None:
        """The rank has ended; an error ends the others too."""
        with self.changed:
            self.ended.add(rank)
            if error is not None and not isinstance(error, _RunIsOver):
                self.failures.append(_Failure(rank=rank, error=error))
                self.over = True
            if not self.over:
                self._pass_on(rank)
            self.changed.notify_all()

    def watch(self, threads: list[threading.Thread], timeout: float) -> None:
        """Wait for every rank to end; give up when no turn has ended for `timeout` seconds."""
        with self.changed:
            while len(self.ended) < self.size:
                before = self.turns

                def moved(before: int = before) -> bool:
                    return len(self.ended) == self.size or self.turns != before

                if not self.changed.wait_for(moved, timeout):
                    stuck = self.current
                    error = CannotRunError(
                        f"has not come to its next collective for {timeout:g} s{self._said_waiting()}"
                    )
                    self.failures.append(_Failure(rank=stuck, error=error))
                    self.over = True
                    self.changed.notify_all()
                    return
        for thread in threads:
            thread.join()

    def report(self) -> None:
        """Raise the first rank's failure, if there is one."""
        if self.failures:
            failure = self.failures[0]
            known = isinstance(failure.error, CannotRunError)
            message = str(failure.error) if known else f"{type(failure.error).__name__}: {failure.error}"
            raise CannotRunError(f"rank {failure.rank}: {message}") from failure.error

    def _pass_on(self, rank: int) -> None:
        self.turns += 1
        for step in range(1, self.size + 1):
            other = (rank + step) % self.size
            if other not in self.ended and other not in self.waiting:
                self.current = other
                self.changed.notify_all()
                return
        if len(self.ended) < self.size:
            gone = f"; rank {', '.join(map(str, sorted(self.ended)))} ended" if self.ended else ""
            error = CannotRunError(f"deadlock{self._said_waiting()}{gone}")
            self.failures.append(_Failure(rank=min(self.waiting), error=error))
            self.over = True
            self.changed.notify_all()

    def _said_waiting(self) -> str:
        return "".join(f"; rank {rank} waits in {what}" for rank, what in sorted(self.waiting.items()))

    def _leave_if_over(self) -> None:
        if self.over:
            raise _RunIsOver


class _RunIsOver(BaseException):
    """Raised in every other rank when one fails; no handler of ordinary errors catches it."""


def _run_rank(rank: int, turns: _Turns, results: dict[int, Any], fn: Callable[..., Any], args: tuple[Any, ...]) -> None:
    error: BaseException | None = None
    _thread.rank, _thread.turns = rank, turns
    try:
        turns.begin(rank)
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
    """Give each thread a `torch.distributed` of its own, and collectives that take turns."""
    from torch.testing._internal.distributed import multi_threaded_pg as threaded

    if _BACKEND not in dist.Backend.backend_list:
        dist.Backend.register_backend(_BACKEND, _make_group, devices=["cpu", "cuda"])
    replaced = threaded.Collective, threaded.ReduceScatter
    isolate: Callable[[bool], None] = torch._C._distributed_c10d._set_thread_isolation_mode  # type: ignore[attr-defined]  # noqa: SLF001
    isolate(True)
    threaded._install_threaded_pg()  # noqa: SLF001
    threaded.Collective, threaded.ReduceScatter = _Rendezvous, ReduceScatter  # type: ignore[misc, assignment]
    try:
        yield
    finally:
        threaded.Collective, threaded.ReduceScatter = replaced  # type: ignore[misc]
        threaded.ProcessLocalGroup.reset()
        threaded._uninstall_threaded_pg()  # noqa: SLF001
        isolate(False)


def _make_group(_store: Any, rank: int, size: int, _timeout: Any) -> dist.ProcessGroup:
    """A group without PyTorch's own wait for the other ranks: while one rank waits in a store, no other runs."""
    from torch.testing._internal.distributed.multi_threaded_pg import ProcessLocalGroup

    return ProcessLocalGroup(rank, size)


def is_thread_of_world() -> bool:
    """Whether the calling thread is a rank."""
    return hasattr(_thread, "turns")


@contextmanager
def collectives_traced(add: Callable[[Any, Any, tuple[int, ...]], None]) -> Iterator[None]:
    """Inside, call `add(collective, tensors, global ranks)` for each of this rank's collectives."""
    before, _thread.trace = getattr(_thread, "trace", None), add
    try:
        yield
    finally:
        _thread.trace = before


class _Rendezvous:
    """One collective of one group, in place of PyTorch's, whose waiting ranks would block the others."""

    def __init__(self, world_size: int, collective: Any, _group: Any) -> None:
        self._size = world_size
        self._collective = collective
        self._data: list[Any] = [None] * world_size
        self._called: list[str] = [""] * world_size
        self._arrived: list[int] = []
        self._done = False

    def join(self, rank: int, data: Any) -> Any:
        from torch.testing._internal.distributed.multi_threaded_pg import ret_work

        turns: _Turns = _thread.turns
        self._data[rank] = data
        self._called[rank] = f"{type(self._collective).__name__} of {_describe(data)}"
        self._arrived.append(_thread.rank)
        if len(self._arrived) == self._size:
            self._check_alike()
            self._collective.work(self._data)
            self._done = True
            turns.release(self._arrived)
        else:
            turns.wait_until(_thread.rank, lambda: self._done, self._called[rank])
        if getattr(_thread, "trace", None) is not None:
            _thread.trace(self._collective, data, tuple(sorted(self._arrived)))
        return ret_work(data)

    def _check_alike(self) -> None:
        kinds = Counter(self._called)
        uneven = type(self._collective).__name__ in ("AllToAll", "AllToAllBase", "AllGather", "Scatter", "Gather")
        if len(kinds) > 1 and not uneven:
            calls = "; ".join(f"rank {rank} is in {called}" for rank, called in enumerate(self._called))
            raise CannotRunError(f"the ranks are in different collectives: {calls}")


def _describe(data: Any) -> str:
    from torch.utils._pytree import tree_leaves

    tensors = [x for x in tree_leaves(data) if isinstance(x, torch.Tensor)]
    return ", ".join(f"{str(x.dtype).removeprefix('torch.')} {list(x.shape)}" for x in tensors[:2])
