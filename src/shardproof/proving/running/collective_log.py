"""The sequence of collectives of a run: which, where, over which ranks, of what shape, and for which placement.

In exact arithmetic the user's code goes the same ways as in their own dtypes, or the proof is not of what they run.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import zip_longest
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Parting:
    """Where two runs' sequences part first; None where one of them is at its end."""

    exact: Collective | None
    native: Collective | None
    ranks: tuple[int, ...]

    @property
    def first(self) -> Collective:
        """The one that says where."""
        found = self.exact or self.native
        assert found is not None
        return found

    @property
    def only_shapes(self) -> bool:
        """The same collective, of other shapes: these may depend on values, as a routing's do."""
        if self.exact is None or self.native is None:
            return False
        exact, native = self.exact, self.native
        same = (exact.step, exact.place, exact.placement) == (native.step, native.place, native.placement)
        return same and (exact.heard.kind, exact.heard.ranks) == (native.heard.kind, native.heard.ranks)


def find_parting(exact: Sequence[Records], native: Sequence[Records]) -> Parting | None:
    """Where the ranks' sequences of two runs part first, or None: the earliest in the run, by the first such rank.

    Args:
        exact: of each rank, of a run in exact arithmetic.
        native: of each rank, of the run in the user's own dtypes.
    """
    found = {}
    for rank, (one, other) in enumerate(zip(exact, native, strict=True)):
        pairs = enumerate(zip_longest(one.collectives, other.collectives))
        parting = next(((at, pair) for at, pair in pairs if not _alike(*pair)), None)
        if parting is not None:
            found[rank] = parting
    if not found:
        return None
    rank = min(found, key=lambda rank: found[rank][0])
    _, (in_exact, in_native) = found[rank]
    return Parting(exact=in_exact, native=in_native, ranks=tuple(found))


def _alike(exact: Collective | None, native: Collective | None) -> bool:
    """Whether they are the same, but for how an average is taken: both runs' values say whether that is right.

    FSDP2 takes it by AVG or PREMUL_SUM in float32 and bfloat16, and by SUM and divisions in any other dtype.
    """
    if exact is None or native is None:
        return exact is native
    return _by_sum(exact) == _by_sum(native)


def _by_sum(collective: Collective) -> Collective:
    heard = collective.heard
    kind = heard.kind.replace(" AVG", " SUM").replace(" PREMUL_SUM", " SUM")
    return replace(collective, heard=replace(heard, kind=kind))


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
