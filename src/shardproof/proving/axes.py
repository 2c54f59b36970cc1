"""Axes: the mesh of ranks as numbers: each rank's coordinates, and the axes along which a batch is split."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations
from math import prod
from typing import TYPE_CHECKING

from shardproof.errors import CannotRunError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Axes:
    """The axes of a mesh over all ranks; the last one's neighbours have neighbouring numbers.

    Attributes:
        sizes: by name, in order; empty for one device.
        data: those along which each rank gets rows of the batch of its own.
    """

    sizes: Mapping[str, int] = field(default_factory=dict)
    data: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """How many ranks."""
        return prod(self.sizes.values())

    @property
    def shares(self) -> int:
        """Into how many parts a batch is split."""
        return prod(self.sizes[name] for name in self.data)

    def mesh_coordinates(self, rank: int) -> dict[str, int]:
        """The rank's index on each axis."""
        found = {}
        for name, size in reversed(list(self.sizes.items())):
            rank, found[name] = divmod(rank, size)
        return found

    def number(self, rank: int, names: Sequence[str]) -> int:
        """The rank's number among those that differ on these axes only; the first axis is the outermost."""
        coordinates, number = self.mesh_coordinates(rank), 0
        for name in names:
            number = number * self.sizes[name] + coordinates[name]
        return number

    def groups(self, names: Sequence[str]) -> list[list[int]]:
        """All ranks, in groups of those that differ on these axes only, in the order of `number`."""
        others = [name for name in self.sizes if name not in names]
        found: dict[int, list[int]] = {}
        for rank in range(self.size):
            found.setdefault(self.number(rank, others), []).append(rank)
        return [sorted(group, key=lambda rank: self.number(rank, names)) for group in found.values()]

    def choices(self) -> Iterator[tuple[str, ...]]:
        """Every choice of axes that have more than one rank, single ones first."""
        real = [name for name, size in self.sizes.items() if size > 1]
        for count in range(1, len(real) + 1):
            yield from combinations(real, count)


def make_axes(
    *, devices: int | None = None, mesh: Mapping[str, int] | None = None, data_axes: Sequence[str] | None = None
) -> Axes:
    """The axes that the user asks for.

    Args:
        devices: how many ranks, on one axis `tp`.
        mesh: instead, the sizes of the mesh's axes by name.
        data_axes: those along which each rank gets rows of its own; by default those with `dp` or `data` in their name,
            and `ep`: ranks with experts of their own have tokens of their own.

    Raises:
        CannotRunError: these are no axes.
    """
    if (devices is None) == (mesh is None):
        raise CannotRunError('prove needs exactly one of devices=N and mesh={"dp": N, "tp": M}')
    if devices is not None:
        if devices < 2:
            raise CannotRunError(f"devices is {devices}; a sharded step needs at least 2")
        mesh = {"tp": devices}
    assert mesh is not None
    for name, size in mesh.items():
        if not isinstance(name, str) or not name.isidentifier():
            raise CannotRunError(f"the mesh has an axis {name!r}; give each a name, such as dp or tp")
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise CannotRunError(f"the mesh's axis {name} is of size {size!r}; give an integer, at least 1")
    if data_axes is None:
        data_axes = [name for name in mesh if "dp" in name or "data" in name or name == "ep"]
    unknown = [name for name in data_axes if name not in mesh]
    if unknown:
        raise CannotRunError(f"data_axes names {unknown[0]!r}; the mesh has {', '.join(mesh) or 'no axes'}")
    axes = Axes(sizes=dict(mesh), data=tuple(name for name in mesh if name in data_axes))
    if axes.size < 2:
        raise CannotRunError(f"the mesh has {axes.size} rank; a sharded step needs at least 2")
    return axes
