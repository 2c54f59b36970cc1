"""Constants of another part: a rank that computes with the table of positions, heads or features of another rank.

A module that is wrong although its inputs are right may compute with other constants: a rotary table whose positions
start from 0 on every rank, slopes of the first heads. The constants are recorded as residues, so that entries are found
by value: a table in which an entry of one device's is used by no rank, while all that is used is one of its entries.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from shardproof.proving.cause import Cause, CauseKind, Mend
from shardproof.proving.judging.closeness import Exact
from shardproof.proving.records import GRADIENT_OF

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from shardproof.proving.judging.alignment import Aligned, Alignment
    from shardproof.proving.judging.closeness import Closeness
    from shardproof.proving.records import Key

_MOST_RANGES = 8


def explain_tables(alignment: Alignment, key: Key, _aligned: Aligned, closeness: Closeness) -> Cause | None:
    """The table of constants of a wrong activation's module of which the ranks take other entries; None without one.

    Args:
        alignment: of the run.
        key: of the activation, of the first step.
        closeness: how values are compared; within noise nothing is told.
    """
    if key.step or key.phase not in GRADIENT_OF or not isinstance(closeness, Exact):
        return None
    module = key.name.partition("/")[0].partition("[")[0]
    whole = alignment.reference.tables.get(module, [])
    parts = [records.tables.get(module, []) for records in alignment.ranks]
    if any(len(own) != len(whole) for own in parts):
        return None  # they compute something else
    for number, table in enumerate(whole):
        found = _find_moved(table, [own[number] for own in parts])
        if found is not None:
            entries, ranges = found
            return Cause(
                kind=CauseKind.OTHER_CONSTANTS,
                mend=Mend.COUNT_FROM_PART,
                parameter=module,
                elements=entries,
                ranges=ranges,
            )
    return None


def _find_moved(table: Tensor, parts: Sequence[Tensor]) -> tuple[int, tuple[tuple[int, int], ...]] | None:
    """How many entries the table has along a dim, and the ranges of those the ranks have, if one is on no rank.

    Every rank has as many entries as the whole, or the ranks share it out.
    """
    for dim in range(table.ndim):
        entries = _slices(table, dim)
        if len(entries) < 2 or len(set(entries)) < len(entries):
            continue
        places = {content: number for number, content in enumerate(entries)}
        own = [_slices(part, dim) for part in parts if part.ndim == table.ndim]
        shared_out = sum(map(len, own)) == len(entries)
        if len(own) < len(parts) or not (shared_out or all(len(one) == len(entries) for one in own)):
            continue
        if any(content not in places for one in own for content in one):
            continue
        taken = [[places[content] for content in one] for one in own]
        if len({at for one in taken for at in one}) == len(entries):
            continue
        ranges = _ranges([at for one in taken for at in one] if shared_out else taken[0])
        if len(ranges) <= _MOST_RANGES:
            return len(entries), ranges
    return None


def _slices(tensor: Tensor, dim: int) -> list[bytes]:
    return [one.contiguous().numpy().tobytes() for one in tensor.unbind(dim)]


def _ranges(numbers: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Numbers as ranges of successive ones, the first and the last of each."""
    ends = [0, *(at + 1 for at, (one, after) in enumerate(pairwise(numbers)) if after != one + 1), len(numbers)]
    return tuple((numbers[start], numbers[stop - 1]) for start, stop in pairwise(ends))
