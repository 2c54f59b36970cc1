"""`World`: where the ranks of one run are executed. Per-rank code cannot tell the three kinds of world apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar, TypeVarTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from shardproof.worlds.communicator import Communicator

Ts = TypeVarTuple("Ts")
R = TypeVar("R")

DEFAULT_TIMEOUT = 60.0
"""Seconds without any progress after which a world of several processes gives up."""


class World(Protocol):
    """Runs a function on every rank."""

    @property
    def size(self) -> int:
        """How many ranks there are."""

    @property
    def speaks(self) -> bool:
        """Whether this process gets the results, and so prints: false on ranks other than 0 of a launched world."""

    def run(self, fn: Callable[[Communicator, *Ts], R], *args: *Ts) -> list[R]:
        """Run `fn(comm, *args)` once on every rank, and return the ranks' results, in rank order.

        `fn` must not write into the result of a collective, and every rank must call the same collectives in the same
        order. A process that does not speak gets the empty list.

        Raises:
            CannotRunError: a rank raised, died or hung, or two ranks called different collectives; the message names
                the rank.
        """
