"""Causes of a difference: relations between what each rank holds and what it should hold, tried in order.

A relation is named only if it explains every element. `RELATIONS` is the table: each is a function from a `Difference`
to a `Cause`, or None where it does not hold; the first that holds is the cause. Each is written once, for exact
arithmetic and for numbers within rounding noise: it compares by the difference's `Closeness` alone.

To add one: its kind in `proving/cause.py`, a function here, its line in `RELATIONS`, its words in `report/words.py`.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

import torch

from shardproof.proving.cause import Cause, CauseKind, Mend
from shardproof.proving.judging.closeness import Exact, is_equal
from shardproof.proving.judging.layout import PADDING
from shardproof.proving.judging.places import locate
from shardproof.proving.records import Phase

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from fractions import Fraction

    from shardproof.proving.judging.alignment import ActualExpected
    from shardproof.proving.judging.closeness import Closeness
    from shardproof.proving.judging.difference import Difference

    Relation = Callable[["Difference"], Cause | None]

_FEWEST_POSITIONS, _FEWEST_EQUATIONS = 3, 2  # of features that are scaled and shifted
_LARGEST_OF_ONE = 64  # the product of a factor's terms, of one number alone
_MENDS_OF_SUMS = {
    Phase.GRADIENT: Mend.ALL_REDUCE_GRADIENT,
    Phase.OUTPUT: Mend.ALL_REDUCE_IN_FORWARD,
    Phase.OUTPUT_GRADIENT: Mend.ALL_REDUCE_IN_BACKWARD,
}


def explain(difference: Difference) -> Cause | None:
    """The first relation that explains the whole difference; None if no known one does."""
    found = (relation(difference) for relation in RELATIONS)
    return next((cause for cause in found if cause is not None), None)


# The relations -----------------------------------------------------------------------------------------------------


def used_padding(difference: Difference) -> Cause | None:
    """All is right but zeros of padding, which are no longer zeros."""
    wrong, elements = [], 0
    for rank, one in difference.held.items():
        if one.element_index is None:
            return None
        differs = difference.closeness.differs(one.actual, one.expected)
        if bool((differs & (one.element_index != PADDING)).any()):
            return None
        if bool(differs.any()):
            wrong.append(rank)
            elements += int(differs.sum())
    return difference.cause(CauseKind.PADDING_USED, ranks=tuple(wrong), elements=elements)


def missing_reduction(difference: Difference) -> Cause | None:
    """Over some axes the sum, or along data axes the mean, of what the ranks hold is right.

    Where no axis is said to be one of data, any may be: a training of the user's own splits its batch itself.


    One factor common to all wrong ranks is the simpler explanation: two ranks that hold half of it each also sum up.
    """
    if len(difference.held) < 2 or common_factor(difference):
        return None
    axes = difference.axes
    for names in axes.choices():
        if sum_is_right(difference, names):
            mend = mend_of_sum(difference.phase)
            return difference.cause(CauseKind.MISSING_ALL_REDUCE, axes=names, mend=mend)
        count = prod(axes.sizes[name] for name in names if name in (axes.data or axes.sizes))
        if count > 1 and sum_is_right(difference, names, times=count):
            mend = Mend.AVERAGE_GRADIENT if difference.phase is Phase.GRADIENT else None
            return difference.cause(CauseKind.MISSING_AVERAGE, axes=names, mend=mend)
    return None


def differing_replicas(difference: Difference) -> Cause | None:
    """Wherever a rank is wrong, another that should hold the same is right."""
    wrong = set(difference.wrong)
    touched = [set(group) for group in _replicas(difference.held) if wrong & set(group)]
    if not all(group - wrong for group in touched):
        return None
    return difference.cause(CauseKind.REPLICAS_DIFFER, ranks=tuple(sorted(wrong)))


def scaling(difference: Difference) -> Cause | None:
    """Every rank that is wrong holds one and the same small multiple of what it should."""
    factor = common_factor(difference)
    if factor is None:
        return None
    if not factor:
        return difference.cause(CauseKind.ZERO_EVERYWHERE)
    return difference.cause(CauseKind.SCALED, factor=factor)


def repeated_bias(difference: Difference) -> Cause | None:
    """The difference is the same vector of features at every position, as of a bias that is added twice or never."""
    if not _has_positions(difference):
        return None
    for one in difference.held.values():
        off = _off_by_position(one.actual, one.expected, difference.closeness)
        if not is_equal(difference.closeness, off, off[:1].expand_as(off)):
            return None
    return difference.cause(CauseKind.SAME_VECTOR_OFF)


def shard_order(difference: Difference) -> Cause | None:
    """Every rank holds the shard of some rank."""
    held = difference.held
    if len(_replicas(held)) < 2:
        return None
    owners = []
    for one in held.values():
        owner = next(
            (rank for rank, other in held.items() if is_equal(difference.closeness, one.actual, other.expected)), None
        )
        if owner is None:
            return None
        owners.append(owner)
    return difference.cause(CauseKind.SHARD_ORDER, ranks=tuple(owners))


def parts_with_bias(difference: Difference) -> Cause | None:
    """Over some axes the sum of what the ranks hold is right but for the same vector of features at every position."""
    held, closeness = difference.held, difference.closeness
    if not _has_positions(difference):
        return None
    for names in difference.axes.choices():
        groups = [[held[rank] for rank in group if rank in held] for group in difference.axes.groups(names)]
        if all(_sums_up_beside_vector(group, closeness) for group in groups):
            return difference.cause(CauseKind.PARTS_WITH_BIAS, axes=names)
    return None


def few_vectors(difference: Difference) -> Cause | None:
    """At every position the difference is one of at most as many vectors of features as there are ranks.

    So it is where each rank's lookup of rows that others hold is not masked. Each vector comes more than once, and
    there are more than twice as many positions, or the same tokens might explain it. Not told within noise.
    """
    if difference.closeness.approximate or not _has_positions(difference):
        return None
    most = 0
    for one in difference.held.values():
        off = _off_by_position(one.actual, one.expected, difference.closeness)
        vectors, counts = off.unique(dim=0, return_counts=True)
        if not bool(off.any(1).all()) or int(counts.min()) < 2 or len(off) <= 2 * len(vectors):
            return None
        most = max(most, len(vectors))
    if most > difference.axes.size:
        return None
    return difference.cause(CauseKind.FEW_VECTORS_OFF, elements=most)


def zeros_in_part(difference: Difference) -> Cause | None:
    """Whatever is wrong is zero."""
    for one in difference.held.values():
        wrong = difference.closeness.differs(one.actual, one.expected)
        if bool(one.actual[wrong].any()):
            return None
    return replace(locate(difference), kind=CauseKind.ZERO_IN_PART)


def scaled_features(difference: Difference) -> Cause | None:
    """Each feature is scaled and shifted by numbers of its own, the same at every position of a rank.

    So it is if a norm takes the statistics of a rank's own rows, or of other features. Not told within noise, nor of
    fewer than three positions. By accident it holds in 1 / p**n of draws, n = features * (positions - 2), at least 2.
    """
    closeness = difference.closeness
    if not isinstance(closeness, Exact) or not _has_positions(difference):
        return None
    for rank in difference.wrong:
        actual, expected = (x.flatten(0, -2) for x in (difference.held[rank].actual, difference.held[rank].expected))
        if len(actual) < _FEWEST_POSITIONS or (len(actual) - 2) * actual.shape[1] < _FEWEST_EQUATIONS:
            return None
        from_first = [closeness.canonical(x - x[:1]) for x in (actual, expected)]
        other = (from_first[1] != 0).long().argmax(0, keepdim=True)  # by feature, a position with another value
        slope = closeness.quotient(*(x.gather(0, other) for x in from_first))
        if bool((slope == 0).any()) or not is_equal(
            closeness, from_first[0], closeness.canonical(from_first[1] * slope)
        ):
            return None
    return difference.cause(CauseKind.FEATURES_SCALED, mend=Mend.STATISTICS_OF_ALL)


RELATIONS: tuple[Relation, ...] = (
    used_padding,
    missing_reduction,
    differing_replicas,
    scaling,
    repeated_bias,
    parts_with_bias,
    few_vectors,
    shard_order,
    zeros_in_part,
    scaled_features,
)

# What they are made of ---------------------------------------------------------------------------------------------


def mend_of_sum(phase: Phase) -> Mend | None:
    """Where the all-reduce is missing, by what the tensor is that is only a part of a sum."""
    return _MENDS_OF_SUMS.get(phase)


def axes_of_sum(difference: Difference) -> tuple[str, ...]:
    """The fewest axes over which the sum of what the ranks hold is right; empty if there are none."""
    return next((names for names in difference.axes.choices() if sum_is_right(difference, names)), ())


def sum_is_right(difference: Difference, names: Sequence[str], *, times: int = 1) -> bool:
    """Whether in each group of ranks along the axes the sum of what they hold is `times` what it should be."""
    groups = [
        [difference.held[rank] for rank in group if rank in difference.held] for group in difference.axes.groups(names)
    ]
    return all(_sums_up(group, difference.closeness, times) for group in groups if group)


def _sums_up(group: Sequence[ActualExpected], closeness: Closeness, times: int) -> bool:
    """Whether each element that some rank has wrong is `times` the expected one, summed over the ranks that hold it.

    Elements that all have right may stay as they are: where one part of a projection is used by all ranks alike, and
    another by each for itself, only the gradient of the second is a sum.
    """
    index = _element_index(group)
    if index is None:
        return False
    real = index != PADDING
    actual = closeness.numbers(torch.cat([one.actual.reshape(-1) for one in group]))[real]
    expected = closeness.numbers(torch.cat([one.expected.reshape(-1) for one in group]))[real]
    _, at = index[real].unique(return_inverse=True)
    sums = torch.zeros(len(at), dtype=actual.dtype).index_add_(0, at, actual)[at]
    wrong = (
        torch.zeros(len(at), dtype=torch.int64).index_add_(0, at, closeness.differs(actual, expected).long())[at] > 0
    )
    return is_equal(closeness, closeness.canonical(sums[wrong]), closeness.canonical(expected[wrong] * times))


def _element_index(group: Sequence[ActualExpected]) -> torch.Tensor | None:
    """Which element of the full tensor each element of the group is; None where that is not known."""
    known = [one.element_index.reshape(-1) for one in group if one.element_index is not None]
    if len(known) == len(group):
        return torch.cat(known)
    expected = group[0].expected
    if not all(torch.equal(one.expected, expected) for one in group):
        return None
    return torch.arange(expected.numel()).repeat(len(group))


def _has_positions(difference: Difference) -> bool:
    """Whether it is an activation of several positions, each with a vector of features in the last dim."""
    held = difference.held.values()
    return all(one.element_index is None and one.actual.ndim > 1 and one.actual[..., 0].numel() > 1 for one in held)


def _off_by_position(actual: torch.Tensor, expected: torch.Tensor, closeness: Closeness) -> torch.Tensor:
    """The difference, a row for each position."""
    return closeness.canonical(closeness.numbers(actual) - closeness.numbers(expected)).flatten(0, -2)


def _sums_up_beside_vector(group: Sequence[ActualExpected], closeness: Closeness) -> bool:
    """Whether ranks hold different parts of one tensor, whose sum is off by one vector at every position."""
    if len(group) < 2 or not all(torch.equal(one.expected, group[0].expected) for one in group):
        return False
    if all(is_equal(closeness, one.actual, group[0].actual) for one in group):
        return False
    total = torch.stack([closeness.numbers(one.actual) for one in group]).sum(0)
    off = _off_by_position(closeness.canonical(total), group[0].expected, closeness)
    return is_equal(closeness, off, off[:1].expand_as(off))


def common_factor(difference: Difference) -> Fraction | None:
    """The one small factor by which every rank that is wrong is wrong."""
    factors = {_factor(difference.held[rank], difference.closeness) for rank in difference.wrong}
    return factors.pop() if len(factors) == 1 else None


def _factor(one: ActualExpected, closeness: Closeness) -> Fraction | None:
    """The small k with actual = k * expected on every element.

    Of one number alone (a loss), k is positive and the product of its terms at most 64: of some 200 such factors one
    is the ratio by accident in 1e-4 of draws, of all that are looked for in 2e-3. Of two numbers it is one in 1e-9.
    """
    candidates = closeness.candidate_factors(one.actual, one.expected)
    if not closeness.approximate and int(one.expected.count_nonzero()) == 1:
        candidates = (k for k in candidates if k >= 0 and k.numerator * k.denominator <= _LARGEST_OF_ONE)
    return next((k for k in candidates if is_equal(closeness, one.actual, closeness.scaled(one.expected, k))), None)


def _replicas(held: Mapping[int, ActualExpected]) -> list[list[int]]:
    """The ranks, in groups of those that should hold the same elements."""
    found: list[list[int]] = []
    for rank, one in held.items():
        group = next((group for group in found if _same_elements(held[group[0]], one)), None)
        if group is None:
            found.append([rank])
        else:
            group.append(rank)
    return found


def _same_elements(one: ActualExpected, other: ActualExpected) -> bool:
    if one.element_index is not None and other.element_index is not None:
        return torch.equal(one.element_index.reshape(-1), other.element_index.reshape(-1))
    return torch.equal(one.expected.reshape(-1), other.expected.reshape(-1))
