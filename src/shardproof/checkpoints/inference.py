"""How ranks' pieces make a full tensor, where their sizes on both sides show it."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING

from shardproof.checkpoints.full import bits_equal, full_of
from shardproof.checkpoints.layout import Held, How, Replicated, Split, put_together

if TYPE_CHECKING:
    from shardproof.checkpoints.full import FullTensor

_Candidate = tuple[Held, How, tuple[int, ...]]  # and the full shape


def infer(
    actual: Held, expected: Held, how: tuple[How | None, How | None] = (None, None)
) -> tuple[FullTensor, FullTensor]:
    """Both full tensors, by the layouts for which their shapes are equal; `how` is what is known of either.

    Where a tensor has the same shape on as many ranks on both sides, sizes show nothing: it is replicated if the
    expected ranks hold the same values, and else split, on dim 0, as any dim gives the same comparison.

    Where no layouts give equal shapes, the two that come nearest: transposed, or different on one dim. A side is then
    replicated if its ranks hold the same values.

    Raises:
        CannotRunError: the sizes or the dtypes of pieces don't fit each other.
    """
    pairs = list(product(_list_candidates(actual, how[0]), _list_candidates(expected, how[1])))
    fitting = [(a, e) for a, e in pairs if a[2] == e[2]]
    if (
        len(fitting) > 1
        and all(isinstance(side[1], Replicated) for side in fitting[0])
        and not _copies_are_equal(fitting[0][1][0])
    ):
        fitting = fitting[1:]
    if not fitting:
        likely = [pair for pair in pairs if all(map(_is_likely, pair))] or pairs
        fitting = [min(likely, key=_distance)]
    chosen = fitting[0]
    return put_together(*chosen[0][:2]), put_together(*chosen[1][:2])


def _list_candidates(held: Held, how: How | None) -> list[_Candidate]:
    """Those without missing pieces first: a tensor that some ranks lack may be whole on the others."""
    if how is not None:
        return [(held, how, put_together(held, how).shape)]
    found: list[_Candidate] = []
    present = replace(held, group=tuple(rank for rank in held.group if rank in held.pieces))
    for group in (present, held) if held.lost else (held,):
        first, *others = group.shapes
        if all(shape == first for shape in others):
            found.append((group, Replicated(), first))
        if len(group.group) > 1:
            splits = [Split(dim=d) for d in range(len(first)) if all(_fit(shape, first, d) for shape in others)]
            found += [(group, split, put_together(group, split).shape) for split in splits]
    return found or [(held, Split(dim=0), put_together(held, Split(dim=0)).shape)]  # which raises


def _fit(shape: tuple[int, ...], other: tuple[int, ...], d: int) -> bool:
    """Whether two shapes are equal but for one dim."""
    return len(shape) == len(other) and (*shape[:d], *shape[d + 1 :]) == (*other[:d], *other[d + 1 :])


def _is_likely(candidate: _Candidate) -> bool:
    """Whether the ranks' values speak for a candidate: equal for what is replicated, and not for what is split."""
    held, how, _ = candidate
    alone = len(held.group) == 1 or len(set(held.shapes)) > 1
    return alone or isinstance(how, Replicated) == (_copies_are_equal(held) or not held.first.shape)


def _copies_are_equal(held: Held) -> bool:
    first, *others = (full_of(held.pieces[rank][0]) for rank in held.group if rank in held.pieces)
    return all(bits_equal(other, first) for other in others)


def _distance(pair: tuple[_Candidate, _Candidate]) -> tuple[int, int, int]:
    """How far two shapes are apart: transposed, different on one dim, on several, of another number of dims.

    Of those that are equally far, what is split is nearer than what is replicated: padding is of a split dim.
    """
    actual, expected = (shape for _, _, shape in pair)
    repeated = sum(isinstance(how, Replicated) and len(held.group) > 1 for held, how, _ in pair)
    if actual == expected[::-1]:
        return 0, repeated, 0
    if len(actual) != len(expected):
        return len(actual) + len(expected), repeated, 0
    apart = [abs(a - e) for a, e in zip(actual, expected, strict=True)]
    return sum(map(bool, apart)), repeated, sum(apart)
