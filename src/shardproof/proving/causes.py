"""Causes: a relation between what each rank holds and what it should hold, put in words if it explains all of it.

Every relation is tested on all elements, in exact arithmetic: it holds to the last digit or it is not named.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from shardproof.proving.layout import PADDING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shardproof.proving.alignment import Held

_LARGEST_FACTOR = 64


def explain(ranks: Mapping[int, Held], prime: int) -> str:
    """The cause in words; empty if no known relation explains the difference."""
    same_place = len({held.expected.numel() for held in ranks.values()}) == 1 and all(
        torch.equal(held.expected.reshape(-1), next(iter(ranks.values())).expected.reshape(-1))
        for held in ranks.values()
    )
    wrong = [rank for rank, held in ranks.items() if not torch.equal(held.actual, held.expected)]
    if len(ranks) > 1 and not _same_factor(ranks, wrong, prime) and _sum_is_right(ranks, prime):
        return "ranks hold partial values whose sum is right: an all-reduce is missing"
    if same_place and len(ranks) > 1 and len(wrong) < len(ranks):
        return f"replicas differ: rank{_listed(wrong)} wrong, the others right"
    factor = _same_factor(ranks, wrong, prime)
    if factor is not None:
        if factor == 0:
            return "zero everywhere"
        return f"{factor} times too large" if factor > 1 else f"{1 / factor} times too small"
    if _off_by_one_vector(ranks, prime):
        return "off by the same vector at every position: a bias is added more than once, or not at all"
    if not same_place and len(ranks) > 1:
        order = _permutation(ranks)
        if order is not None:
            return "shards in another order: ranks hold the shards of " + ", ".join(map(str, order))
    return ""


def _same_factor(ranks: Mapping[int, Held], wrong: list[int], prime: int) -> Fraction | None:
    """The one small factor by which every rank that is wrong is wrong."""
    factors = {_factor(held, prime) for rank, held in ranks.items() if rank in wrong}
    return factors.pop() if len(factors) == 1 else None


def _sum_is_right(ranks: Mapping[int, Held], prime: int) -> bool:
    """Whether each element that is wrong somewhere is the sum of what all ranks that hold it have."""
    some = next(iter(ranks.values()))
    if all(held.places is not None for held in ranks.values()):
        places = torch.cat([held.places.reshape(-1) for held in ranks.values() if held.places is not None])
    elif all(held.expected.shape == some.expected.shape for held in ranks.values()) and all(
        torch.equal(held.expected, some.expected) for held in ranks.values()
    ):
        places = torch.arange(some.expected.numel()).repeat(len(ranks))
    else:
        return False
    actual = torch.cat([held.actual.reshape(-1) for held in ranks.values()])[places != PADDING]
    expected = torch.cat([held.expected.reshape(-1) for held in ranks.values()])[places != PADDING]
    _, at = places[places != PADDING].unique(return_inverse=True)
    sums = torch.zeros(len(at), dtype=actual.dtype).index_add_(0, at, actual)[at]
    differs = torch.zeros(len(at), dtype=torch.int64).index_add_(0, at, (actual != expected).long())[at] > 0
    return _equal(sums[differs], expected[differs], prime)


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
