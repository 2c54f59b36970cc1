"""Make a world of a kind given by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from shardproof.errors import CannotRunError
from shardproof.worlds.world import DEFAULT_TIMEOUT

if TYPE_CHECKING:
    from shardproof.worlds.world import World

WorldKind = Literal["simulated", "spawned", "launched"]


def make_world(kind: WorldKind, *, size: int | None = None, timeout: float = DEFAULT_TIMEOUT) -> World:
    """Make a world of one of the three kinds.

    Args:
        kind: which.
        size: how many ranks; a launched world has as many as were launched, and takes `None` or that number.
        timeout: seconds without progress after which a world of several processes gives up.

    Raises:
        CannotRunError: the world cannot be made: no size, another size than was launched, or not launched.
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
