"""Last words: what the ranks of a launched world leave in the rendezvous store when they fail, for rank 0 to tell.

No parent watches launched ranks. But a rank that fails can say so before its sockets close, and one whose collective
breaks off can say which: whoever says nothing is the one that is gone or stuck.
"""

from __future__ import annotations

import signal
import threading
import time
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING

from shardproof.worlds.diagnosis import name_ranks, say_parted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch._C._distributed_c10d import Store

_PATIENCE_SECONDS = 1.0
_ERROR, _CALL, _TOLD = "shardproof/error", "shardproof/call", "shardproof/told"


def leave_error(store: Store, rank: int, message: str) -> None:
    """Leave the error for which this rank goes."""
    _ignore_termination()
    with suppress(RuntimeError):  # the store is gone with its rank; there is nobody left to tell
        store.set(f"{_ERROR}/{rank}", message)


def leave_call(store: Store, rank: int, call: str) -> None:
    """Leave the collective that broke off here, and stay until rank 0 has told: a launcher ends all when one ends."""
    _ignore_termination()
    with suppress(RuntimeError):
        store.set(f"{_CALL}/{rank}", call)
        store.wait([_TOLD], timedelta(seconds=2 * _PATIENCE_SECONDS))


def tell(store: Store, size: int, call: str | None) -> str:
    """Say, on rank 0, what the other ranks left, now that `call` has broken off here, or the launcher has ended us."""
    errors: dict[int, str] = {}
    calls = {0: call or ""}
    with suppress(RuntimeError, TerminatedError):
        until = time.monotonic() + _PATIENCE_SECONDS
        while not errors and len(calls) < size and time.monotonic() < until:
            errors |= _read(store, _ERROR, size)
            calls |= _read(store, _CALL, size)
            time.sleep(_PATIENCE_SECONDS / 100)
    _ignore_termination()
    with suppress(RuntimeError):
        store.set(_TOLD, "")
    if errors:
        return "; ".join(errors[rank] for rank in sorted(errors))
    for rank in sorted(calls):
        if call and calls[rank] != call:
            alike = [other for other in calls if other < rank and calls[other] == call]
            return say_parted(alike, call, rank, calls[rank])
    silent = [rank for rank in range(size) if rank not in calls]
    return f"{name_ranks(silent)} ended or hung without a word" if silent else "no rank says why"


def _read(store: Store, key: str, size: int) -> dict[int, str]:
    return {rank: store.get(f"{key}/{rank}").decode() for rank in range(size) if store.check([f"{key}/{rank}"])}


def _ignore_termination() -> None:
    """From here on this process has a last word to say, and then ends by itself, with its own exit code."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


class TerminatedError(BaseException):
    """The launcher ends this process, because another one has ended; not for handlers of ordinary errors."""


@contextmanager
def raise_when_terminated() -> Iterator[None]:
    """Turn the launcher's SIGTERM into an exception, once, so that what is known by then is still told."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        _ignore_termination()
        raise TerminatedError

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is stop:
            signal.signal(signal.SIGTERM, before)
