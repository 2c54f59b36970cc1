"""Sentences that say what went wrong among ranks; every world uses the same ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

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


def describe_misfit(source: int, sent: object, destination: int, received: object) -> str:
    """A message and the receive that takes it are of different tensors."""
    return f"a message does not fit: rank {source} calls {sent}, rank {destination} calls {received}"


def describe_deadlock(waits: Mapping[int, object], ended: Collection[int] = ()) -> str:
    """No rank can go on: `deadlock; rank 0 waits in ...; rank 1 waits in ...; rank 2 ended`."""
    listed = "".join(f"; rank {rank} waits in {call}" for rank, call in sorted(waits.items()))
    return f"deadlock{listed}" + (f"; {name_ranks(ended)} ended" if ended else "")


def describe_waits(waits: Mapping[int, object]) -> str:
    """`ranks 0, 1 wait in ...; rank 2 waits in ...`: the ranks of one call together."""
    together: dict[str, list[int]] = {}
    for rank, call in sorted(waits.items()):
        together.setdefault(str(call), []).append(rank)
    return "; ".join(describe_waiting(ranks, call) for call, ranks in together.items())


def is_message(call: str) -> bool:
    """Whether a call, in words, is one of a message."""
    return call.startswith(("send ", "receive "))


def diagnose_stall(statuses: Sequence[RankStatus], returned: Collection[int]) -> str | None:
    """Why no rank can go on, if the statuses show it: different collectives, a wait for a rank that returned, or a
    deadlock of messages.
    """
    waiting = [rank for rank, status in enumerate(statuses) if status.waits]
    together = [rank for rank in waiting if statuses[rank].peer is None]
    if together:
        first = statuses[together[0]]
        for rank in together[1:]:
            if statuses[rank].entered == first.entered and statuses[rank].call != first.call:
                alike = [other for other in together if other < rank and statuses[other].call == first.call]
                return describe_mismatch(alike, first.call, rank, statuses[rank].call)
        gone = [rank for rank in returned if statuses[rank].left < first.entered]
        if gone:
            return f"{name_ranks(gone)} ended while {describe_waiting(together, first.call)}"
    everyone = waiting and len(waiting) + len(returned) == len(statuses)
    if not everyone or any(_can_go_on(rank, statuses) for rank in waiting):
        return None
    return describe_deadlock({rank: statuses[rank].call for rank in waiting}, returned)


def _can_go_on(rank: int, statuses: Sequence[RankStatus]) -> bool:
    """Whether what a rank waits for is on its way."""
    own = statuses[rank]
    if own.peer is None:
        return all(other.entered >= own.entered for other in statuses)
    other = statuses[own.peer]
    if other.peer == rank and other.sends != own.sends:
        return True
    # The other rank may have left its end of the message already.
    if own.sends:
        return other.received[rank] > own.sent[own.peer]
    return other.sent[rank] > own.received[own.peer]
