"""A world: where the ranks of one run live. The three kinds differ in nothing that per-rank code can see."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol, TypeVar, TypeVarTuple

from shardproof.errors import CannotRunError

if TYPE_CHECKING:
    from collections.abc import Callable

    from shardproof.worlds.communicator import Communicator

Ts = TypeVarTuple("Ts")
R = TypeVar("R")

WorldKind = Literal["simulated", "spawned", "launched"]

DEFAULT_TIMEOUT = 60.0
"""Seconds without any progress after which a world of several processes gives up."""


def make_world(kind: WorldKind, *, size: int | None = None, timeout: float = DEFAULT_TIMEOUT) -> World:
    """Make a world of one of the three kinds.

    Args:
        kind: which.
        size: how many ranks; a launched world has as many as were launched, and takes `None` or that number.
        timeout: seconds without progress after which a world of several processes gives up.

    Raises:
        CannotRunError: there can be no such world here.
    """
    if kind == "launched":
        from shardproof.worlds.launched import LaunchedWorld

        world = LaunchedWorld(timeout=timeout)
        if size not in {None, world.size}:
            raise CannotRunError(f"{size} ranks were asked for, but {world.size} were launched: launch {size}")
        return world
    if size is None:
        raise CannotRunError(f"a {kind} world needs to know how many ranks it has: give a size")
    if kind == "spawned":
        from shardproof.worlds.spawned import SpawnedWorld

        return SpawnedWorld(size=size, timeout=timeout)
    from shardproof.worlds.simulated import SimulatedWorld

    return SimulatedWorld(size=size)


class World(Protocol):
    """Where ranks run."""

    @property
    def size(self) -> int:
        """How many ranks there are."""

    @property
    def speaks(self) -> bool:
        """Whether this process gets the results, and so prints them: false on a launched world's other ranks."""

    def run(self, fn: Callable[[Communicator, *Ts], R], *args: *Ts) -> list[R]:
        """Run `fn(comm, *args)` once on every rank, and return what the ranks returned, in rank order.

        `fn` takes what a collective returns as read-only, and every rank calls the same collectives in the same order.
        A process that does not speak gets the empty list.

        Raises:
            CannotRunError: a rank raised, died or did not arrive, or two ranks called different collectives; the
                message names the rank and what is known.
        """
