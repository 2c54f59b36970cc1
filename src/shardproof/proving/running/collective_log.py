"""The sequence of collectives of a run: which, where, over which ranks, of what shape, and for which placement.

In exact arithmetic the user's code must call the same ones as in their own dtypes, or the proof is of another program.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch.utils._debug_mode import get_active_debug_mode as find_debug_mode

from shardproof.proving.records import CollectiveCall
from shardproof.proving.running.recomputation import is_recomputed
from shardproof.worlds.collective_trace import trace_collectives

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from shardproof.proving.running.capture import Recorder
    from shardproof.worlds.collective_trace import TracedCollective
    from shardproof.worlds.early_access import EarlyAccess


@contextmanager
def collectives_recorded(recorder: Recorder) -> Iterator[None]:
    """Inside, every collective of the calling rank is recorded, and every early access to one in flight."""
    log = _Log(recorder=recorder)
    poison = recorder.exact is None  # exact arithmetic has no NaN
    traced = trace_collectives(log.add, log.add_early_access, poison=poison, checked=recorder.exact is not None)
    with traced, _redistributions_seen(log):
        yield


@contextmanager
def early_uses_waited_for(recorder: Recorder) -> Iterator[None]:
    """Inside, a collective is waited for where its result is used too early, as where this is recorded."""
    with trace_collectives(_ignore, _ignore, poison=recorder.exact is None, checked=recorder.exact is not None):
        yield


def _ignore(_seen: object) -> None:
    """The runs that are recorded have it."""


@dataclass(slots=True, kw_only=True)
class _Log:
    """The collectives of one rank, and the DTensor redistributions that are under way."""

    recorder: Recorder
    placements: list[str] = field(default_factory=list)

    def add(self, traced: TracedCollective) -> None:
        self.recorder.records.collectives.append(
            CollectiveCall(
                step=self.recorder.step,
                location=self._location(),
                kind=traced.kind,
                ranks=traced.ranks,
                shapes=traced.shapes,
                placement=self.placements[-1] if self.placements else "",
                dtype=traced.dtype,
                asynchronous=traced.asynchronous,
                recomputed=is_recomputed(self.recorder),
                after_choices=self.recorder.exact is not None and self.recorder.exact.choices_read,
            )
        )

    def add_early_access(self, access: EarlyAccess) -> None:
        self.recorder.records.early_accesses.append((self.recorder.step, access))

    def _location(self) -> str:
        if self.recorder.running:
            return f"in {self.recorder.running[-1]}"
        last = next(reversed(self.recorder.records.tensors), None)
        return "at the beginning" if last is None else f"after {last.phase} {last.name}"

    @contextmanager
    def record_redistribute_calls(self, _tensor: Any, source: Any, target: Any, *_: Any, **__: Any) -> Iterator[None]:
        """The method of its debug mode that PyTorch calls around the redistribution of a DTensor."""
        self.placements.append(f"{_listed(source)} to {_listed(target)}")
        try:
            yield
        finally:
            self.placements.pop()


_logs: dict[int, _Log] = {}  # by thread: ranks may be threads


@contextmanager
def _redistributions_seen(log: _Log) -> Iterator[None]:
    """Inside, PyTorch finds `log` as this thread's debug mode when it redistributes a DTensor."""
    from torch.distributed.tensor import _redistribute

    def find() -> Any:
        return _logs.get(threading.get_ident()) or find_debug_mode()

    thread = threading.get_ident()
    if not _logs:
        _redistribute.get_active_debug_mode = find  # type: ignore[attr-defined]  # private
    _logs[thread] = log
    try:
        yield
    finally:
        del _logs[thread]
        if not _logs:
            _redistribute.get_active_debug_mode = find_debug_mode  # type: ignore[attr-defined]  # private


def _listed(placements: Sequence[Any]) -> str:
    return ", ".join(map(str, placements))
