"""Causes: a relation between what each rank holds and what it should hold, put in words if it explains all of it.

Every relation is tested on all elements, in exact arithmetic: it holds to the last digit or it is not named.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shardproof.prove.alignment import Held

_LARGEST_FACTOR = 64


def explain(ranks: Mapping[int, Held], prime: int) -> str:
    """The cause in words; empty if no known relation explains the difference."""
    same_place = len({held.expected.numel() for held in ranks.values()}) == 1 and all(
        torch.equal(held.expected.reshape(-1), next(iter(ranks.values())).expected.reshape(-1))
        for held in ranks.values()
    )
    wrong = [rank for rank, held in ranks.items() if not torch.equal(held.actual, held.expected)]
    if same_place and len(ranks) > 1:
        expected = next(iter(ranks.values())).expected
        total = sum(held.actual for held in ranks.values())
        assert isinstance(total, Tensor)
        if _equal(total, expected, prime):
            return "ranks hold partial values whose sum is right: an all-reduce is missing"
        if len(wrong) < len(ranks):
            return f"replicas differ: rank{_listed(wrong)} wrong, the others right"
    factors = {_factor(held, prime) for rank, held in ranks.items() if rank in wrong}
    if len(factors) == 1 and (factor := factors.pop()) is not None:
        if factor == 0:
            return "zero everywhere"
        return f"{factor} times too large" if factor > 1 else f"{1 / factor} times too small"
    if not same_place and len(ranks) > 1:
        order = _permutation(ranks)
        if order is not None:
            return "shards in another order: ranks hold the shards of " + ", ".join(map(str, order))
    return ""


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
