"""Tracebacks without this package's frames: what a failing test shows is the user's code."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shardproof.errors import CannotRunError

_LEFT_OUT = ("shardproof", "contextlib", "threading")  # our own code, and what stands between two lines of it


def keep_user_frames(error: CannotRunError) -> CannotRunError:
    """The same error without a traceback; those of the exceptions that led to it keep the user's and PyTorch's frames.

    The message of the error names the user's line already.
    """
    error.__traceback__ = None
    seen = {id(error)}
    waiting = [error.__cause__, error.__context__]
    while waiting:
        one = waiting.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            one.__traceback__ = _without_own(one.__traceback__)
            waiting += [one.__cause__, one.__context__]
    return error


def _without_own(traceback: TracebackType | None) -> TracebackType | None:
    kept = []
    while traceback is not None:
        if not _is_left_out(traceback):
            kept.append(traceback)
        traceback = traceback.tb_next
    chain: TracebackType | None = None
    for one in reversed(kept):
        chain = TracebackType(chain, one.tb_frame, one.tb_lasti, one.tb_lineno)
    return chain


def _is_left_out(traceback: TracebackType) -> bool:
    return str(traceback.tb_frame.f_globals.get("__name__", "")).partition(".")[0] in _LEFT_OUT
