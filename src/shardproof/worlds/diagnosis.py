"""What went wrong among ranks, in words: the same words in every world."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from shardproof.worlds.heartbeats import Standing


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a rank could not go on; `follows` when that is most likely the consequence of another rank's end."""

    message: str
    trace: str
    follows: bool


def name_ranks(ranks: Iterable[int]) -> str:
    """Name up to eight ranks, and count the others.

    >>> name_ranks([1]), name_ranks([2, 0]), name_ranks(range(10))
    ('rank 1', 'ranks 0, 2', 'ranks 0, 1, 2, 3, 4, 5, 6, 7 and 2 more')
    """
    known = sorted(ranks)
    named = ", ".join(str(rank) for rank in known[:8]) + (f" and {len(known) - 8} more" if len(known) > 8 else "")
    return f"rank {named}" if len(known) == 1 else f"ranks {named}"


def say_waiting(ranks: Collection[int], call: object) -> str:
    """Say that ranks wait in a collective."""
    return f"{name_ranks(ranks)} wait{'s' if len(ranks) == 1 else ''} in {call}"


def say_parted(ranks: Collection[int], call: object, other: int, other_call: object) -> str:
    """Say that one rank calls another collective than the ranks before it."""
    first = f"{name_ranks(ranks)} call{'s' if len(ranks) == 1 else ''} {call}"
    return f"the ranks part: {first}, rank {other} calls {other_call}"


def blame_board(board: Sequence[Standing], returned: Collection[int]) -> str | None:
    """What a board that stands still proves: ranks in different collectives, or waiting for one that has returned."""
    waiting = [rank for rank, standing in enumerate(board) if standing.waits]
    if not waiting:
        return None
    first = board[waiting[0]]
    for rank in waiting[1:]:
        if board[rank].entered == first.entered and board[rank].call != first.call:
            alike = [other for other in waiting if other < rank and board[other].call == first.call]
            return say_parted(alike, first.call, rank, board[rank].call)
    gone = [rank for rank in returned if board[rank].left < first.entered]
    if gone:
        return f"{name_ranks(gone)} ended while {say_waiting(waiting, first.call)}"
    return None
