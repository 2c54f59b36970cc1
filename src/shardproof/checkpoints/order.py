"""What moved along a dim, from the fingerprints of both sides."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from shardproof.checkpoints.damage import Damage, Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shardproof.checkpoints.fingerprints import Fingerprints

_MOST_BLOCKS = 1024
# Indexes that have equals are matched one by one in Python; beyond so many the first equal is taken.
_MOST_EQUALS = 100_000
_NEW, _ZERO = -1, -2


def find_move(actual: Fingerprints, expected: Fingerprints, dim: int) -> Damage | None:
    """What explains every index along the dim, or all but one part of it; None where nothing does.

    Both have the same number of indexes. A part that holds new values is SHARD_STALE: whether these are the old ones
    scaled, the values must tell.
    """
    total = len(expected.values)
    places = match(actual, expected)
    wrong = (places != torch.arange(total)).nonzero().view(-1)
    if len(wrong) == 0:
        return None
    if torch.equal(actual.values.sort().values, expected.values.sort().values):
        return _name_permutation(places, dim)
    first, last = int(wrong[0]), int(wrong[-1]) + 1
    part = places[first:last]
    found = Damage(kind=Kind.SHARD_STALE, dim=dim, first=first, last=last, total=total)
    if last - first == total:
        return None
    if bool(actual.zero[first:last].all()):
        return replace(found, kind=Kind.SHARD_ZERO)
    if bool((part == torch.arange(len(part)) + part[0]).all()) and int(part[0]) >= 0:
        return replace(found, kind=Kind.SHARD_DOUBLED, source=int(part[0]))
    if len(wrong) == last - first and bool((part == _NEW).all()):
        return found
    return None


def match(actual: Fingerprints, expected: Fingerprints) -> torch.Tensor:
    """For each index of `actual`, that of `expected` with the same values: the same, or next to the last, or any.

    -1 where there is none, -2 where moreover all values are zero.
    """
    n = len(expected.values)
    order = expected.values.argsort(stable=True)
    ordered = expected.values[order]
    low = torch.searchsorted(ordered, actual.values)
    high = torch.searchsorted(ordered, actual.values, right=True)
    there = high > low
    places = torch.where(there, order[low.clamp(max=n - 1)], _NEW)
    same = actual.values == expected.values
    places = torch.where(same, torch.arange(n), places)
    places = torch.where(actual.zero & ~expected.zero & ~same, _ZERO, places)
    several = ((high - low > 1) & ~same & (places >= 0)).nonzero().view(-1)
    if len(several) <= _MOST_EQUALS:
        found, wanted = places.tolist(), actual.values.tolist()
        values = expected.values.tolist() if len(several) else []
        for i in several.tolist():
            after = found[i - 1] + 1 if i else n
            if found[i - 1] >= 0 and after < n and values[after] == wanted[i]:
                found[i] = after
        places = torch.tensor(found)
    return places


def _name_permutation(places: torch.Tensor, dim: int) -> Damage:
    n = len(places)
    moved = int((places != torch.arange(n)).sum())
    found = Damage(kind=Kind.PERMUTED, dim=dim, count=moved, total=n)
    if not torch.equal(places.sort().values, torch.arange(n)):  # equal indexes were matched in another order
        return found
    size = _block_size(places)
    blocks = (places[::size] // size).tolist()
    view = find_view(places) if size == 1 else None
    if view is not None:
        return replace(found, kind=Kind.INTERLEAVED, view=view)
    if len(blocks) <= _MOST_BLOCKS:
        packed = find_packing(blocks) or find_packing(_invert(blocks))
        if packed is not None:
            sections, coarse, fine = packed
            return replace(
                found,
                kind=Kind.REPACKED,
                size=size,
                sections=sections,
                coarse=coarse,
                ranks=fine,
                order=tuple(blocks),
            )
    if size > 1 and len(blocks) <= _MOST_BLOCKS:
        return replace(found, kind=Kind.BLOCKS_SWAPPED, size=size, order=tuple(blocks))
    if torch.equal(places, torch.arange(n - 1, -1, -1)):
        return replace(found, kind=Kind.REVERSED)
    shift = int(places[0])
    if torch.equal(places, (torch.arange(n) + shift) % n):
        return replace(found, kind=Kind.SHIFTED, source=shift)
    return found


def _block_size(places: torch.Tensor) -> int:
    """The largest size of blocks that move as a whole, all of one size."""
    n = len(places)
    starts = (places[1:] != places[:-1] + 1).nonzero().view(-1) + 1
    size = n
    for start in [0, *starts.tolist()]:
        size = math.gcd(size, start, int(places[start]))
        if size == 1:
            break
    return size


def find_packing(blocks: list[int]) -> tuple[tuple[int, ...], int, int] | None:
    """Packed sections, and by how many ranks the two sides split each of them: 1 and n, or n and a multiple of it.

    The blocks are each rank's shares of all sections: rank 0 has the first share of each section, one after another;
    rank 1 the second of each; and so on. If the other side is of several ranks, so for each of these.

    Returns:
        The sizes of the sections, in blocks; the smaller number of ranks, and the larger.
    """
    n = len(blocks)
    for coarse in range(1, n // 4 + 1):
        each = n // coarse
        if n % coarse or blocks != [block + i * each for i in range(coarse) for block in blocks[:each]]:
            continue
        lengths, ranks = _find_lengths(blocks[:each])
        if ranks:
            return tuple(length * ranks * coarse for length in lengths), coarse, ranks * coarse
    return None


def _find_lengths(blocks: list[int]) -> tuple[list[int], int]:
    """The sizes of each rank's shares, and the number of ranks; 0 where the blocks are no packing."""
    n = len(blocks)
    for ranks in range(2, n // 2 + 1):
        if n % ranks:
            continue
        share = blocks[: n // ranks]
        starts = [i for i in range(len(share)) if i == 0 or share[i] != share[i - 1] + 1]
        lengths = [after - start for start, after in zip(starts, [*starts[1:], len(share)], strict=True)]
        if len(lengths) > 1 and list(_pack(lengths, ranks)) == blocks:
            return lengths, ranks
    return [], 0


def _pack(lengths: list[int], ranks: int) -> Iterator[int]:
    for rank in range(ranks):
        offset = 0
        for length in lengths:
            yield from range(offset + rank * length, offset + (rank + 1) * length)
            offset += length * ranks


def find_view(places: torch.Tensor) -> tuple[int, int, int] | None:
    """Sizes (a, b, c) for which the places are `arange(n).view(a, b, c).transpose(1, 2)`, flattened."""
    n = len(places)
    step = int(places[1]) if n > 1 else 0
    ones = (places == 1).nonzero()
    if step < 2 or len(ones) == 0 or int(places[0]) != 0:
        return None
    rows = int(ones[0])
    if n % (rows * step):
        return None
    view = n // (rows * step), rows, step
    return view if torch.equal(torch.arange(n).view(view).transpose(1, 2).flatten(), places) else None


def _invert(blocks: list[int]) -> list[int]:
    inverse = [0] * len(blocks)
    for at, block in enumerate(blocks):
        inverse[block] = at
    return inverse
