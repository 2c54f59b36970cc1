"""Failures of launched ranks, which they write into the rendezvous store for rank 0 to report.

No parent process watches launched ranks. A rank that raises writes its error before its sockets close, and a rank whose
collective breaks off writes which one it was. Ranks that wrote nothing are dead or hung.
"""

from __future__ import annotations

import signal
import threading
import time
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING

from shardproof.worlds.diagnosis import describe_deadlock, describe_mismatch, is_message, name_ranks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch._C._distributed_c10d import Store

_WAIT_SECONDS = 1.0
_ERROR, _CALL, _REPORTED = "shardproof/error", "shardproof/call", "shardproof/reported"


def store_error(store: Store, rank: int, message: str) -> None:
    """Write the error with which this rank ends."""
    ignore_termination()
    with suppress(RuntimeError):  # the rank that holds the store has ended: nobody can read it
        store.set(f"{_ERROR}/{rank}", message)


def store_call(store: Store, rank: int, call: str) -> None:
    """Write which collective broke off, and wait until rank 0 has reported: a launcher ends all when one ends."""
    ignore_termination()
    with suppress(RuntimeError):
        store.set(f"{_CALL}/{rank}", call)
        store.wait([_REPORTED], timedelta(seconds=2 * _WAIT_SECONDS))


def collect_failures(store: Store, size: int, call: str | None) -> str:
    """What the other ranks wrote, in one sentence, for rank 0.

    Args:
        store: the rendezvous store.
        size: how many ranks there are.
        call: the collective that broke off on rank 0; None where the launcher ended it.
    """
    errors: dict[int, str] = {}
    calls = {0: call or ""}
    with suppress(RuntimeError, TerminatedError):
        until = time.monotonic() + _WAIT_SECONDS
        while not errors and len(calls) < size and time.monotonic() < until:
            errors |= read_written(store, _ERROR, size)
            calls |= read_written(store, _CALL, size)
            time.sleep(_WAIT_SECONDS / 100)
    ignore_termination()
    with suppress(RuntimeError):
        store.set(_REPORTED, "")
    if errors:
        return "; ".join(errors[rank] for rank in sorted(errors))
    silent = [rank for rank in range(size) if rank not in calls]
    if any(map(is_message, calls.values())):
        # Ranks of a pipeline wait in different calls, also where one has died.
        return _say_silent(silent) if silent else describe_deadlock(calls)
    for rank in sorted(calls):
        if call and calls[rank] != call:
            alike = [other for other in calls if other < rank and calls[other] == call]
            return describe_mismatch(alike, call, rank, calls[rank])
    return _say_silent(silent) if silent else "no rank reported an error"


def _say_silent(ranks: list[int]) -> str:
    return f"{name_ranks(ranks)} died or hung without reporting an error"


def read_written(store: Store, key: str, size: int) -> dict[int, str]:
    """What each rank has written under `key` and its number, by rank."""
    return {rank: store.get(f"{key}/{rank}").decode() for rank in range(size) if store.check([f"{key}/{rank}"])}


def ignore_termination() -> None:
    """Ignore SIGTERM from here on: this process has something to report, and then ends with its own exit code."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def ignore_termination_for(seconds: float) -> None:
    """Ignore SIGTERM for a while: another rank may end first, and the launcher then ends this one, which still reports.

    What comes later ends this process as it did before.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    before, until = signal.getsignal(signal.SIGTERM), time.monotonic() + seconds

    def stop(*_: object) -> None:
        if time.monotonic() > until:
            signal.signal(signal.SIGTERM, before)
            signal.raise_signal(signal.SIGTERM)

    signal.signal(signal.SIGTERM, stop)


class TerminatedError(BaseException):
    """The launcher ends this process because another one ended. No handler of ordinary errors catches it."""


@contextmanager
def raise_when_terminated() -> Iterator[None]:
    """Turn the launcher's first SIGTERM into an exception, so that this rank can still report what it knows."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        ignore_termination()
        raise TerminatedError

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is stop:
            signal.signal(signal.SIGTERM, before)
