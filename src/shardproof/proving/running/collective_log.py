"""The sequence of collectives of a run: which, where, over which ranks, of what shape, and for which placement.

In exact arithmetic the user's code goes the same ways as in their own dtypes, or the proof is not of what they run.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch.utils._debug_mode import get_active_debug_mode as find_debug_mode

from shardproof.worlds.collective_trace import trace_collectives

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager

    from shardproof.proving.records import Records
    from shardproof.worlds.collective_trace import TracedCollective


@dataclass(frozen=True, slots=True, kw_only=True)
class Collective:
    """One collective of one rank.

    Attributes:
        step: of which training step.
        place: in which module's forward, or after what else that was recorded, in words.
        heard: which collective, over which ranks, of what shapes.
        placement: of a DTensor, from what to what; empty where no DTensor is redistributed.
    """

    step: int
    place: str
    heard: TracedCollective
    placement: str = ""

    def __str__(self) -> str:
        shapes = " and ".join(str(list(shape)) for shape in self.heard.shapes[:2])
        ranks = ", ".join(map(str, self.heard.ranks))
        placement = f", {self.placement}" if self.placement else ""
        return f"{self.heard.kind} of {shapes} over ranks {ranks}{placement}, {self.place}"


@contextmanager
def collectives_recorded(records: Records) -> Iterator[None]:
    """Add every collective of the calling rank to `records`."""
    recorder = _Recorder(records=records)
    with trace_collectives(recorder.add), _redistributions_told(recorder):
        yield


def nothing_recorded(_records: Records) -> AbstractContextManager[None]:
    """For runs of which the sequence is not asked for."""
    return nullcontext()


@dataclass(slots=True, kw_only=True)
class _Recorder:
    """Where a rank is, and what it redistributes."""

    records: Records
    placements: list[str] = field(default_factory=list)

    def add(self, heard: TracedCollective) -> None:
        placement = self.placements[-1] if self.placements else ""
        self.records.collectives.append(
            Collective(step=self.records.step, place=self._place(), heard=heard, placement=placement)
        )

    def _place(self) -> str:
        if self.records.running:
            return f"in {self.records.running[-1]}"
        last = next(reversed(self.records.tensors), None)
        return "at the beginning" if last is None else f"after {last.phase} {last.name}"

    @contextmanager
    def record_redistribute_calls(self, _tensor: Any, source: Any, target: Any, *_: Any, **__: Any) -> Iterator[None]:
        """What PyTorch calls of its debug mode around the redistribution of a DTensor."""
        self.placements.append(f"{_listed(source)} to {_listed(target)}")
        try:
            yield
        finally:
            self.placements.pop()


_recorders: dict[int, _Recorder] = {}  # by thread: ranks may be threads


@contextmanager
def _redistributions_told(recorder: _Recorder) -> Iterator[None]:
    """Be what this thread finds where PyTorch looks for its debug mode, as long as it redistributes a DTensor."""
    from torch.distributed.tensor import _redistribute

    def find() -> Any:
        return _recorders.get(threading.get_ident()) or find_debug_mode()

    thread = threading.get_ident()
    if not _recorders:
        _redistribute.get_active_debug_mode = find  # type: ignore[attr-defined]  # private
    _recorders[thread] = recorder
    try:
        yield
    finally:
        del _recorders[thread]
        if not _recorders:
            _redistribute.get_active_debug_mode = find_debug_mode  # type: ignore[attr-defined]  # private


def _listed(placements: Sequence[Any]) -> str:
    return ", ".join(map(str, placements))
