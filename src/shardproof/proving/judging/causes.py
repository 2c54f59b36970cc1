"""Causes: a relation between what each rank holds and what it should hold, put in words if it explains all of it.

Every relation is tested on all elements, in exact arithmetic: it holds to the last digit or it is not named.
"""

from __future__ import annotations

from fractions import Fraction
from math import prod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from shardproof.proving.judging.layout import PADDING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from shardproof.proving.axes import Axes
    from shardproof.proving.judging.alignment import Held

_LARGEST_FACTOR = 64


def explain(ranks: Mapping[int, Held], prime: int, axes: Axes) -> str:
    """The cause in words; empty if no known relation explains the difference."""
    wrong = [rank for rank, held in ranks.items() if not torch.equal(held.actual, held.expected)]
    if len(ranks) > 1 and not _same_factor(ranks, wrong, prime):
        reduction = _missing_reduction(ranks, prime, axes)
        if reduction:
            return reduction
    replicas = _replicas(ranks)
    if all(set(alike) - set(wrong) for alike in replicas if set(alike) & set(wrong)):
        return f"replicas differ: rank{_listed(wrong)} wrong, the others right"
    factor = _same_factor(ranks, wrong, prime)
    if factor is not None:
        if factor == 0:
            return "zero everywhere"
        return f"{factor} times too large" if factor > 1 else f"{1 / factor} times too small"
    if _off_by_one_vector(ranks, prime):
        return "off by the same vector at every position: a bias is added more than once, or not at all"
    if len(replicas) > 1:
        order = _permutation(ranks)
        if order is not None:
            return "shards in another order: ranks hold the shards of " + ", ".join(map(str, order))
    return ""


def _missing_reduction(ranks: Mapping[int, Held], prime: int, axes: Axes) -> str:
    """Over which axes the sum, or along data axes the mean, of what the ranks hold is right; empty if over none."""
    for names in axes.choices():
        groups = [[ranks[rank] for rank in group if rank in ranks] for group in axes.groups(names)]
        if all(_sum_is_right(group, prime) for group in groups if group):
            return f"ranks hold partial values whose sum{axes.over(names)} is right: an all-reduce is missing"
        count = prod(axes.sizes[name] for name in names if name in axes.data)
        if count > 1 and all(_sum_is_right(group, prime, times=count) for group in groups if group):
            return f"ranks hold values of their own whose mean{axes.over(names)} is right: an average is missing"
    return ""


def _replicas(ranks: Mapping[int, Held]) -> list[list[int]]:
    """The ranks, in groups of those that should hold the same elements."""
    found: list[list[int]] = []
    for rank, held in ranks.items():
        alike = next((group for group in found if _same_place(ranks[group[0]], held)), None)
        if alike is None:
            found.append([rank])
        else:
            alike.append(rank)
    return found


def _same_place(one: Held, other: Held) -> bool:
    if one.places is not None and other.places is not None:
        return torch.equal(one.places.reshape(-1), other.places.reshape(-1))
    return torch.equal(one.expected.reshape(-1), other.expected.reshape(-1))


def _same_factor(ranks: Mapping[int, Held], wrong: list[int], prime: int) -> Fraction | None:
    """The one small factor by which every rank that is wrong is wrong."""
    factors = {_factor(held, prime) for rank, held in ranks.items() if rank in wrong}
    return factors.pop() if len(factors) == 1 else None


def _sum_is_right(group: Sequence[Held], prime: int, *, times: int = 1) -> bool:
    """Whether each element that is wrong somewhere is, so many times, the sum of what all that hold it have."""
    some = group[0]
    if all(held.places is not None for held in group):
        places = torch.cat([held.places.reshape(-1) for held in group if held.places is not None])
    elif all(held.expected.shape == some.expected.shape for held in group) and all(
        torch.equal(held.expected, some.expected) for held in group
    ):
        places = torch.arange(some.expected.numel()).repeat(len(group))
    else:
        return False
    actual = torch.cat([held.actual.reshape(-1) for held in group])[places != PADDING]
    expected = torch.cat([held.expected.reshape(-1) for held in group])[places != PADDING]
    _, at = places[places != PADDING].unique(return_inverse=True)
    sums = torch.zeros(len(at), dtype=actual.dtype).index_add_(0, at, actual)[at]
    differs = torch.zeros(len(at), dtype=torch.int64).index_add_(0, at, (actual != expected).long())[at] > 0
    return _equal(sums[differs], expected[differs] * times, prime)


def _off_by_one_vector(ranks: Mapping[int, Held], prime: int) -> bool:
    """Whether the difference is the same vector of features wherever else it is looked at, and not a number."""
    for held in ranks.values():
        if held.places is not None or held.actual.ndim < 2 or held.actual[..., 0].numel() < 2:
            return False
        difference = (held.actual - held.expected).flatten(0, -2) % prime
        if not torch.equal(difference, difference[:1].expand_as(difference)):
            return False
    return True


def _equal(a: Tensor, b: Tensor, prime: int) -> bool:
    return bool(((a - b) % prime == 0).all())


def _factor(held: Held, prime: int) -> Fraction | None:
    """The small k with actual = k * expected on every element."""
    actual, expected = held.actual.reshape(-1), held.expected.reshape(-1)
    places = (expected % prime != 0).nonzero()
    if not len(places):
        return None
    at = int(places[0])
    ratio = int(actual[at]) * pow(int(expected[at]), -1, prime) % prime
    for under in range(1, _LARGEST_FACTOR + 1):
        over = ratio * under % prime
        over = over - prime if over > prime // 2 else over
        if abs(over) <= _LARGEST_FACTOR and _equal(actual, expected * ratio, prime):
            return Fraction(over, under)
    return None


def _permutation(ranks: Mapping[int, Held]) -> list[int] | None:
    order = []
    for held in ranks.values():
        owner = next((r for r, other in ranks.items() if torch.equal(held.actual, other.expected)), None)
        if owner is None:
            return None
        order.append(owner)
    return order


def _listed(ranks: list[int]) -> str:
    return f" {ranks[0]} is" if len(ranks) == 1 else f"s {', '.join(map(str, ranks))} are"
