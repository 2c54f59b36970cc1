"""Dropout masks, a check of their own: replicas drop the same elements, and shards do not share one mask.

The masks are those that each rank's generators give. Every rank is seeded alike; a generator that the user's sharding
seeds or forks is used as it is. The layout of an activation is inferred from its values: ranks with the same values
hold replicas, ranks with other values hold shards, and a value that one device has once identifies an element.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import torch

from shardproof.proving.cause import Cause, CauseKind, Mend
from shardproof.proving.findings import Finding, Verdict
from shardproof.proving.records import Key, Phase

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from shardproof.proving.axes import Axes
    from shardproof.proving.records import DrawnMask, Masks

    Calls = Sequence[DrawnMask]  # the same call in each step

# Two masks of as many elements are equal by chance once in 2**32; two of fewer are so too often.
_TELLING = 32
# Relative to the largest value: another order of summation differs by far less, another value by far more.
_CLOSE = 1e-9


def judge_masks(reference: Masks, ranks: Sequence[Masks], axes: Axes) -> tuple[Finding, ...]:
    """One finding for each call of dropout in a step, over all steps."""
    whole = _by_call(reference)
    held: dict[Key, dict[int, Calls]] = {}
    for rank, masks in enumerate(ranks):
        for key, calls in _by_call(masks).items():
            if calls[0].recomputed:
                continue  # `recomputation.py` compares it with the forward
            held.setdefault(key, {})[rank] = calls
    return tuple(_judge(key, whole.get(key, ()), found, axes) for key, found in held.items())


def _by_call(masks: Masks) -> dict[Key, list[DrawnMask]]:
    """The steps' masks of each call, under the key of the first step."""
    found: dict[Key, list[DrawnMask]] = {}
    for key, drawn in masks.items():
        found.setdefault(Key(0, key.phase, key.name, key.call), []).append(drawn)
    return found


def _judge(key: Key, whole: Calls, held: Mapping[int, Calls], axes: Axes) -> Finding:
    compared = [_beside(whole, calls) for calls in held.values()]
    if all(count and equal for count, equal in compared):
        chance = 2.0 ** -max(count for count, _ in compared)  # of one rank alone: the others may be in step with it
        return Finding(key=key, verdict=Verdict.PROVED, elements=_count(held), false_accept=chance)
    noted = CauseKind.MASK_OWN
    for first, second in combinations(held, 2):
        replicas, one_mask, count = _compare(held[first], held[second])
        if replicas and not one_mask:
            return _finding(key, Verdict.WRONG, Cause(kind=CauseKind.MASK_REPLICAS_DIFFER), held, (first, second))
        if replicas or not one_mask:
            continue
        if _of_size(held[first], whole):
            noted = CauseKind.MASK_SHARED_ON_OTHER_VALUES  # partial sums, or wrong values: the proof reports these
        elif _differ_on_data_axes(axes, first, second):
            noted = CauseKind.MASK_SHARED_ALONG_DATA
        elif any(drawn.by_dtensor for drawn in held[first]):
            noted = CauseKind.MASK_BY_DTENSOR
        elif count < _TELLING:
            few = Cause(kind=CauseKind.MASK_TOO_SMALL, elements=count, mend=Mend.MORE_ELEMENTS)
            return _finding(key, Verdict.VACUOUS, few, held, (first, second))
        else:
            shared = Cause(kind=CauseKind.MASK_SHARED, mend=Mend.GENERATOR_FOR_EACH_SHARD)
            return _finding(key, Verdict.WRONG, shared, held, (first, second))
    return _finding(key, Verdict.DRAWN, Cause(kind=noted), held)


def _beside(whole: Calls, calls: Calls) -> tuple[int, bool]:
    """How many elements are identified on one device, and whether all of these are dropped as they are there."""
    count, equal = 0, True
    for one, part in zip(whole, calls, strict=False):
        index = _find_elements(one.values, part.values)
        found = index >= 0
        count += int(found.sum())
        equal = equal and torch.equal(one.mask[index[found]], part.mask[found])
    return count, equal and len(whole) == len(calls)


def _find_elements(whole: Tensor, part: Tensor) -> Tensor:
    """The index of each value among the whole's; -1 for a value that is not there, or more than once."""
    values, order = whole.sort()
    close = _CLOSE * whole.abs().max()
    first = torch.searchsorted(values, part - close)
    last = torch.searchsorted(values, part + close, right=True)
    return torch.where(last - first == 1, order[first.clamp(max=len(values) - 1)], -1)


def _compare(first: Calls, second: Calls) -> tuple[bool, bool, int]:
    """Whether two ranks hold the same values, whether their masks are the same, and of how many elements."""
    replicas, shared, count = len(first) == len(second), True, 0
    for one, other in zip(first, second, strict=False):
        replicas = replicas and one.values.shape == other.values.shape and are_same_values(one.values, other.values)
        common = min(len(one.mask), len(other.mask))
        count += common
        shared = shared and torch.equal(one.mask[:common], other.mask[:common])
    return replicas, shared, count


def are_same_values(first: Tensor, second: Tensor) -> bool:
    """Whether two inputs of dropout of one shape are the same, within the noise of another order of summation."""
    return bool((first - second).abs().max() <= _CLOSE * first.abs().max())


def _of_size(part: Calls, whole: Calls) -> bool:
    """Whether a rank holds as many elements as one device, which shards do not."""
    return any(len(one.values) == len(other.values) for one, other in zip(whole, part, strict=False))


def _differ_on_data_axes(axes: Axes, first: int, second: int) -> bool:
    return axes.number(first, axes.data) != axes.number(second, axes.data)


def _count(held: Mapping[int, Calls]) -> int:
    return sum(len(drawn.mask) for calls in held.values() for drawn in calls)


def _finding(
    key: Key, verdict: Verdict, cause: Cause, held: Mapping[int, Calls], ranks: tuple[int, ...] = ()
) -> Finding:
    assert key.phase is Phase.MASK
    return Finding(key=key, verdict=verdict, cause=cause, ranks=ranks, elements=_count(held), root=not verdict.ok)
