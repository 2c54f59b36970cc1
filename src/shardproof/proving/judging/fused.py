"""Fused projections that are cut as one: [Q; K; V] or [gate; up] in contiguous rows, so that ranks lack some they need.

The projection's own output is right: each rank has the features of the rows that it holds. What is computed from them
is not, where one device combines features that are on different ranks. Which features these are is found by value, in
exact arithmetic:

- a tensor that is a part of the output (queries before their norm) has the very columns of its features;
- what is a product with a feature u, h = f u, has h dh = u du at every position, whatever f is (Euler's theorem).

By accident a column of P positions is another's in n / p**P of draws, of n features. A projection is named only if the
ranks that are wrong are those that lack a row of the features they compute.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import torch

from shardproof.proving.cause import Cause, CauseKind, Mend
from shardproof.proving.judging.closeness import Exact
from shardproof.proving.judging.placement import find_rows
from shardproof.proving.records import GRADIENT_OF, Key, Phase

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from shardproof.proving.judging.alignment import Aligned, Alignment
    from shardproof.proving.judging.closeness import Closeness
    from shardproof.proving.records import Records


def explain_fused(alignment: Alignment, key: Key, aligned: Aligned, closeness: Closeness) -> Cause | None:
    """The fused projection before a wrong activation of the forward that is cut as one; None if there is none.

    Args:
        alignment: of a run that is not cut.
        key: of the activation.
        aligned: what the ranks hold of it.
        closeness: how values are compared; within noise nothing is told.
    """
    if key.phase not in GRADIENT_OF or not isinstance(closeness, Exact) or aligned.misshapen is not None:
        return None
    projection = _projection_before(alignment, key)
    if projection is None:
        return None
    needed = _needed_as_parts(projection, key, aligned) or _needed_as_factors(projection, key, aligned, closeness)
    if needed is None or not needed.explains(projection, aligned):
        return None
    return Cause(
        kind=CauseKind.FUSED_CUT,
        mend=Mend.CUT_EACH,
        parameter=f"{projection.key.name}.weight",
        ranks=tuple(rank for rank in aligned.held if needed.lacks(projection, rank)),
        ranges=needed.groups,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Projection:
    """A projection whose rows the ranks share out.

    Attributes:
        key: of its output, which is right.
        rows: by rank, the rows that it holds, which are its features.
        alignment: of the run.
    """

    key: Key
    rows: Mapping[int, Tensor]
    alignment: Alignment

    def columns(self, records: Records) -> Tensor:
        """Its output, a row for each position."""
        values = records.tensors[self.key].values
        return values.reshape(-1, values.shape[-1])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Needed:
    """Which features a wrong activation is computed from.

    Attributes:
        features: by rank, those that it needs.
        groups: the ranges of features that are projections of their own, a start and an end each.
    """

    features: Mapping[int, Tensor]
    groups: tuple[tuple[int, int], ...] = ()

    def lacks(self, projection: _Projection, rank: int) -> bool:
        """Whether a rank needs a feature whose row it does not hold."""
        return not bool(torch.isin(self.features[rank], projection.rows[rank]).all())

    def explains(self, projection: _Projection, aligned: Aligned) -> bool:
        """Whether the ranks that lack a row are those that are wrong."""
        wrong = {rank for rank, one in aligned.held.items() if not torch.equal(one.actual, one.expected)}
        return wrong == {rank for rank in aligned.held if self.lacks(projection, rank)}


def _projection_before(alignment: Alignment, key: Key) -> _Projection | None:
    """The last projection before an activation whose contiguous rows ranks share out, if its output is right."""
    found = None
    for before in alignment.ranks[0].tensors:
        if before == key:
            break
        if (before.step, before.phase, before.call) != (key.step, Phase.OUTPUT, 0):
            continue
        rows = find_rows(alignment.layout, before.name, alignment.axes)
        if rows is not None and len(rows) == len(alignment.ranks):
            found = _Projection(key=before, rows=rows, alignment=alignment)
    if found is None or not all(bool((rows.diff() == 1).all()) for rows in found.rows.values()):
        return None
    output = alignment.of(found.key)
    everywhere = all(found.key in records.tensors for records in alignment.ranks)
    if everywhere and output is not None and all(torch.equal(x.actual, x.expected) for x in output.held.values()):
        return found
    return None


def _as_columns(tensor: Tensor, positions: int) -> Tensor | None:
    """A tensor whose first dims are so many positions, a row for each."""
    count = 1
    for length in tensor.shape[:-1]:
        count *= length
        if count == positions:
            return tensor.reshape(positions, -1)
    return None


def _find(columns: Tensor | None, among: Tensor) -> Tensor | None:
    """By column, at which column of the others it is found; None if one is not, or at several."""
    if columns is None or len(columns) != len(among) or not len(columns):
        return None
    places: dict[bytes, int] = {}
    for number, column in enumerate(among.T.contiguous()):
        content = column.numpy().tobytes()
        places[content] = -1 if content in places else number
    found = [places.get(column.numpy().tobytes(), -1) for column in columns.T.contiguous()]
    return None if not found or -1 in found else torch.tensor(found)


def _needed_as_parts(projection: _Projection, key: Key, aligned: Aligned) -> _Needed | None:
    """The features of which the activation is a part: on one device, and, of other features, on the ranks too."""
    reference = projection.alignment.reference
    features = projection.columns(reference)
    wanted = {}
    for rank, one in aligned.held.items():
        own = _find(_as_columns(one.actual, len(features)), projection.columns(projection.alignment.ranks[rank]))
        expected = _find(_as_columns(one.expected, len(features)), features)
        if own is None or expected is None:
            return None
        wanted[rank] = expected
    needed = _Needed(features=wanted)
    if not needed.explains(projection, aligned):
        return None
    taken = []
    for other, recorded in reference.tensors.items():
        if (other.step, other.phase) == (key.step, Phase.INPUT) or other == key:
            found = _find(_as_columns(recorded.values, len(features)), features)
            taken += [] if found is None or len(found) == features.shape[1] else [found]
    return replace(needed, groups=_groups(taken, features.shape[1]))


def _groups(taken: list[Tensor], length: int) -> tuple[tuple[int, int], ...]:
    """The ranges of what is taken together, and those between."""
    ends = {0, length} | {int(one.min()) for one in taken} | {int(one.max()) + 1 for one in taken}
    ordered = sorted(ends)
    return tuple((start, end - 1) for start, end in pairwise(ordered))


def _needed_as_factors(projection: _Projection, key: Key, aligned: Aligned, field: Exact) -> _Needed | None:
    """The features of equal groups, one of which is a factor of the activation: of [gate; up] the second.

    On the ranks too, one of the features that they hold is a factor of what they compute.
    """
    reference = projection.alignment.reference
    whole = _products(reference, key, projection, field)
    if whole is None:
        return None
    factors = _find(*whole)
    width, length = whole[0].shape[1], whole[1].shape[1]
    if factors is None or length % width or length == width:
        return None
    start = int(factors.min())
    if start % width or not torch.equal(factors - start, torch.arange(width)):
        return None
    expected = _as_columns(reference.tensors[key].values, len(whole[1]))
    wanted = {}
    for rank, one in aligned.held.items():
        own = _products(projection.alignment.ranks[rank], key, projection, field)
        columns = None if expected is None else _find(_as_columns(one.expected, len(whole[1])), expected)
        if own is None or columns is None or _find(*own) is None:
            return None
        wanted[rank] = torch.cat([columns + group for group in range(0, length, width)])
    groups = tuple((first, first + width - 1) for first in range(0, length, width))
    return _Needed(features=wanted, groups=groups)


def _products(records: Records, key: Key, projection: _Projection, field: Exact) -> tuple[Tensor, Tensor] | None:
    """The activation, and the projection's output, each times its gradient; None where one is not recorded."""
    found = []
    positions = len(projection.columns(records))
    for one in (key, projection.key):
        if one.gradient not in records.tensors or one not in records.tensors:
            return None
        values, factor = (_as_columns(records.tensors[x].values, positions) for x in (one, one.gradient))
        if values is None or factor is None or values.shape != factor.shape:
            return None
        found.append(field.canonical(values * factor))
    return found[0], found[1]
