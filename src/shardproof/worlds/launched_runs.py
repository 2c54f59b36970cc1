"""Several runs in the processes that torchrun started: rank 0 decides what is run next, the others take part.

Each run has a process group of its own. Between two runs there is none, so that rank 0 can run one device's step as a
program that was never launched would. What rank 0 decides, and a rank's own failure, are in the rendezvous store.
"""

from __future__ import annotations

import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from itertools import count
from typing import TYPE_CHECKING, Any, NoReturn

import torch.distributed as dist

from shardproof.errors import CannotRunError
from shardproof.raised import describe_error
from shardproof.worlds.diagnosis import name_ranks
from shardproof.worlds.failure_store import (
    TerminatedError,
    ignore_termination,
    ignore_termination_for,
    raise_when_terminated,
    read_written,
)
from shardproof.worlds.launched import LaunchedWorld, init_launched_group, open_store
from shardproof.worlds.processgroup import ProcessGroupCommunicator, is_effect
from shardproof.worlds.transport import pack, unpack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch._C._distributed_c10d import Store

    from shardproof.worlds.communicator import Communicator
    from shardproof.worlds.world import R, Ts

_POLL_SECONDS = 0.02
_GRACE_SECONDS = 1.0  # for the failure that broke a collective off to be written
_REPORTING_SECONDS = 10.0  # that rank 0 may take to write its report, after the other ranks have ended
_RUN, _RESULT, _FAILED = b"run", b"result", b"failed"
_HERE, _ERROR, _NEXT = "here", "error", "next"

_sessions = count()  # the same number on each rank, as all run the same program
_open_store = cache(open_store)  # once in a process, which may hold it for all ranks until it ends


@dataclass(slots=True, kw_only=True)
class LaunchedRuns:
    """The launched processes as a world that can run several functions, one after the other; see `World`.

    Rank 0 calls `run` and at last `publish`; the other ranks call `follow`, which returns what rank 0 has published.
    """

    world: LaunchedWorld
    store: Store
    begun: int = 0

    @property
    def size(self) -> int:
        return self.world.size

    @property
    def speaks(self) -> bool:
        return self.world.speaks

    def run(self, fn: Callable[[Communicator, *Ts], R], *args: *Ts) -> list[R]:
        """Run a function on every rank, with this rank's arguments.

        Raises:
            CannotRunError: see `World.run`; or a rank did not come to the run.
        """
        assert self.speaks
        work = [pack((fn, args))]
        self._announce(_RUN)
        store = self._store_of_run()
        self._await_ranks(store)
        try:
            group = self._join(store)
            dist.broadcast_object_list(work, src=0)
            result = fn(ProcessGroupCommunicator(group=group), *args)
            packed = [b""] * self.size
            dist.gather_object(pack(result), packed, dst=0)
        except Exception as error:
            if not is_effect(error):
                raise CannotRunError(f"rank 0: {describe_error(error)}") from error
            self._raise_explained(store, error)
        finally:
            _leave()
        return [unpack(one) for one in packed]

    def publish(self, result: object) -> None:
        """Give the other ranks the result with which all end, and wait until they have it: this rank may hold it."""
        self._announce(_RESULT + pack(result))
        self._await_ranks(self._store_of_run())

    def fail(self) -> None:
        """End the other ranks, as this one cannot run: once they know, or a moment later, as some may have died.

        When this process ends, the launcher ends those that do not know yet, with another exit code.
        """
        ignore_termination()
        with suppress(RuntimeError):  # whoever holds the store has ended
            self._announce(_FAILED)
            store, until = self._store_of_run(), time.monotonic() + _GRACE_SECONDS
            keys = [f"{_HERE}/{rank}" for rank in range(1, self.size)]
            while not all(store.check([key]) for key in keys) and time.monotonic() < until:
                time.sleep(_POLL_SECONDS)

    def follow(self) -> Any:
        """Take part in every run of rank 0, and return what it publishes.

        Raises:
            SystemExit: with code 2, if rank 0 cannot run, which it reports itself.
        """
        assert not self.speaks
        while True:
            word = self._next_word()
            store = self._store_of_run()
            if word == _FAILED:
                ignore_termination()
                with suppress(RuntimeError):  # rank 0, which holds the store, has not waited
                    store.set(f"{_HERE}/{self.world.rank}", "")
                raise SystemExit(2)
            store.set(f"{_HERE}/{self.world.rank}", "")
            if word.startswith(_RESULT):
                return unpack(word.removeprefix(_RESULT))
            self._take_part(store)

    def _take_part(self, store: Store) -> None:
        rank = self.world.rank
        try:
            group = self._join(store)
            work: list[Any] = [None]
            dist.broadcast_object_list(work, src=0)
            fn, args = unpack(work[0])
            dist.gather_object(pack(fn(ProcessGroupCommunicator(group=group), *args)), None, dst=0)
        except Exception as error:  # noqa: BLE001 - whatever the user's code raises; rank 0 reports it and decides
            store.set(f"{_ERROR}/{rank}", "" if is_effect(error) else f"rank {rank}: {describe_error(error)}")
        finally:
            _leave()

    def _join(self, store: Store) -> dist.ProcessGroup:
        return init_launched_group(store, self.world.timeout)

    def _store_of_run(self) -> Store:
        return _with_prefix(f"run/{self.begun}", self.store)

    def _announce(self, word: bytes) -> None:
        self.begun += 1
        self.store.set(f"{_NEXT}/{self.begun}", word)  # type: ignore[arg-type]  # bytes too

    def _next_word(self) -> bytes:
        """Wait for what rank 0 does next, however long its own runs take: when it dies the launcher ends this rank."""
        self.begun += 1
        key = f"{_NEXT}/{self.begun}"
        try:
            while not self.store.check([key]):
                time.sleep(_POLL_SECONDS)
            return self.store.get(key)
        except RuntimeError as error:
            raise SystemExit(2) from error  # whoever holds the store has ended

    def _await_ranks(self, store: Store) -> None:
        missing = set(range(1, self.size))
        until = time.monotonic() + self.world.timeout
        while missing:
            missing = {rank for rank in missing if not store.check([f"{_HERE}/{rank}"])}
            if missing and time.monotonic() > until:
                raise CannotRunError(f"{name_ranks(missing)} did not come to a run within {self.world.timeout:g} s")
            time.sleep(_POLL_SECONDS)

    def _raise_explained(self, store: Store, error: Exception) -> NoReturn:
        """Say what broke a collective of rank 0 off: the errors of other ranks, or which of them wrote nothing."""
        written: dict[int, str] = {}
        until = time.monotonic() + _GRACE_SECONDS
        while not any(written.values()) and len(written) < self.size - 1 and time.monotonic() < until:
            time.sleep(_POLL_SECONDS)
            written = read_written(store, _ERROR, self.size)
        if any(written.values()):
            raise CannotRunError("; ".join(written[rank] for rank in sorted(written) if written[rank])) from error
        silent = [rank for rank in range(1, self.size) if rank not in written]
        if silent:
            raise CannotRunError(
                f"{name_ranks(silent)} died or hung without reporting an error; rank 0: {describe_error(error)}"
            ) from error
        raise CannotRunError(f"a collective broke off on every rank; rank 0: {describe_error(error)}") from error


@contextmanager
def launched_runs(timeout: float) -> Iterator[LaunchedRuns]:
    """The runs of one program in the launched world.

    Args:
        timeout: seconds that a rank may take to come to a run, and any collective of it.

    Raises:
        CannotRunError: this process was not launched, or its ranks do not meet; where rank 0 ends so, the others raise
            `SystemExit(2)`.
    """
    world = LaunchedWorld(timeout=timeout)
    if dist.is_initialized():
        raise CannotRunError(
            "torch.distributed is initialized already: a launched proof makes process groups of its own; prove before "
            "your script calls init_process_group"
        )
    runs = LaunchedRuns(world=world, store=_with_prefix(f"shardproof/{next(_sessions)}", _open_store(timeout)))
    if not world.speaks:
        yield runs
        return
    try:
        with raise_when_terminated():
            yield runs
        ignore_termination_for(_REPORTING_SECONDS)
    except TerminatedError as error:
        raise CannotRunError("the launcher ended rank 0: another rank died, which the launcher names") from error
    except dist.DistNetworkError as error:
        raise CannotRunError(
            "the launcher's rendezvous store cannot be reached any more: the launcher's process on its node has ended"
        ) from error
    except BaseException:
        runs.fail()
        raise


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _with_prefix(prefix: str, store: Store) -> Store:
    found: Store = dist.PrefixStore(prefix, store)  # type: ignore[attr-defined]  # public, but not listed
    return found
