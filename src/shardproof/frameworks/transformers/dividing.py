"""Dividing sizes: the smallest sizes that divide among the ranks as the full ones do."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import combinations
from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from fractions import Fraction

Splits = tuple[tuple[int, ...], ...]
_SEVERAL = 2  # a shard of so many rows has a first one and another


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """A field of a configuration that is made smaller.

    Attributes:
        name: of the field.
        full: its value.
        modulus: every smaller value leaves the same remainder, divided by it.
        least: no smaller value is taken.
    """

    name: str
    full: int
    modulus: int
    least: int

    def candidates(self) -> list[int]:
        """The values that may be taken, increasing; the last one is the full one."""
        first = self.full % self.modulus
        first += self.modulus * max(0, -(-(self.least - first) // self.modulus))
        return [*range(first, self.full, self.modulus), self.full]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimension:
    """A size that follows from the fields.

    Attributes:
        name: which, for messages: a parameter and its dim, or a field.
        full: its size at full size.
        factors: by how much it grows with each field.
        splits: over how many ranks it may be split.
    """

    name: str
    full: int
    factors: Mapping[str, Fraction | int]
    splits: Splits = ()

    def reduced(self, fields: Mapping[str, Field], values: Mapping[str, int]) -> int:
        """Its size where the fields have these values."""
        less = sum(factor * (fields[name].full - values[name]) for name, factor in self.factors.items())
        return self.full - int(less)


def list_splits(mesh: Mapping[str, int]) -> Splits:
    """How a dim may be split on a mesh: over each set of its axes, and over one axis and then over all others."""
    sizes = [size for size in mesh.values() if size > 1]
    single = {(prod(some),) for count in range(1, len(sizes) + 1) for some in combinations(sizes, count)}
    nested = {(size, prod(sizes) // size) for size in sizes if prod(sizes) > size}
    return tuple(sorted(single | nested))


def describe_shards(size: int, split: Sequence[int]) -> tuple[object, ...]:
    """How a dim is split, whatever its size: how many shards are full, shorter and empty, and which have one row.

    As `torch.chunk` splits: every shard but the last ones has ceil(size / ranks) rows.

    Args:
        size: of the dim.
        split: over how many ranks; with two numbers, each shard of the first split is split again.
    """
    ranks, *inner = split
    full = -(-size // ranks)
    rows = Counter(min(full, max(0, size - rank * full)) for rank in range(ranks))
    kinds = sorted(rows.items(), reverse=True)
    return tuple(
        (count, min(one, _SEVERAL), one == full, describe_shards(one, inner) if inner and one else ())
        for one, count in kinds
    )


def shrink(fields: Iterable[Field], dimensions: Sequence[Dimension]) -> dict[str, int]:
    """Choose the values of the fields one after the other, each the smallest with which two conditions hold.

    1. Every dimension is split as its full size is, over each of its splits.
    2. Dimensions that differ at full size differ.

    A dimension is looked at when the last field that it grows with is chosen.

    Args:
        fields: the order matters: the first ones become smallest.
        dimensions: all that follow from them, and others, which stay as they are.
    """
    chosen: dict[str, Field] = {}
    values: dict[str, int] = {}
    settled = [one for one in dimensions if not one.factors]
    for field in fields:
        chosen[field.name] = field
        new = [one for one in dimensions if field.name in one.factors and one.factors.keys() <= chosen.keys()]
        for value in field.candidates():  # the last one is the full value, whether or not the conditions hold
            values[field.name] = value
            if holds(chosen, values, settled, new):
                break
        settled += new
    return values


def holds(
    fields: Mapping[str, Field], values: Mapping[str, int], settled: Sequence[Dimension], new: Sequence[Dimension]
) -> bool:
    """Whether the conditions hold for new dimensions, beside each other and beside those that are settled."""
    owners = {one.reduced(fields, values): one.full for one in settled}
    for one in new:
        size = one.reduced(fields, values)
        if size < 1 or find_other_split(one.full, size, one.splits) is not None:
            return False
        if owners.setdefault(size, one.full) != one.full:
            return False
    return True


def find_other_split(full: int, reduced: int, splits: Splits) -> tuple[int, ...] | None:
    """The first split that divides the two sizes otherwise, or leaves another remainder; None if there is none."""
    if full == reduced:
        return None
    for split in splits:
        if full % split[0] != reduced % split[0] or describe_shards(full, split) != describe_shards(reduced, split):
            return split
    return None
