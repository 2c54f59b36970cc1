"""Sentences that say what went wrong among ranks; every world uses the same ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from shardproof.worlds.heartbeats import RankStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a rank failed; `secondary` where the failure of another rank is the likely cause."""

    message: str
    trace: str
    secondary: bool


def name_ranks(ranks: Iterable[int]) -> str:
    """Name up to eight ranks, and count the others.

    >>> name_ranks([1]), name_ranks([2, 0]), name_ranks(range(10))
    ('rank 1', 'ranks 0, 2', 'ranks 0, 1, 2, 3, 4, 5, 6, 7 and 2 more')
    """
    known = sorted(ranks)
    named = ", ".join(str(rank) for rank in known[:8]) + (f" and {len(known) - 8} more" if len(known) > 8 else "")
    return f"rank {named}" if len(known) == 1 else f"ranks {named}"


def describe_waiting(ranks: Collection[int], call: object) -> str:
    """`ranks 0, 1 wait in all_reduce ...`."""
    return f"{name_ranks(ranks)} wait{'s' if len(ranks) == 1 else ''} in {call}"


def describe_mismatch(ranks: Collection[int], call: object, other: int, other_call: object) -> str:
    """One rank calls another collective than the ranks before it, or the same with other arguments."""
    first = f"{name_ranks(ranks)} call{'s' if len(ranks) == 1 else ''} {call}"
    return f"the ranks call different collectives: {first}, rank {other} calls {other_call}"


def diagnose_stall(statuses: Sequence[RankStatus], returned: Collection[int]) -> str | None:
    """Why no rank can go on, if the statuses show it: different collectives, or a wait for a rank that returned."""
    waiting = [rank for rank, status in enumerate(statuses) if status.waits]
    if not waiting:
        return None
    first = statuses[waiting[0]]
    for rank in waiting[1:]:
        if statuses[rank].entered == first.entered and statuses[rank].call != first.call:
            alike = [other for other in waiting if other < rank and statuses[other].call == first.call]
            return describe_mismatch(alike, first.call, rank, statuses[rank].call)
    gone = [rank for rank in returned if statuses[rank].left < first.entered]
    if gone:
        return f"{name_ranks(gone)} ended while {describe_waiting(waiting, first.call)}"
    return None
