"""Splitting: what the ranks share out among themselves. A proof in which they share out nothing proves nothing.

A plan whose names match no module leaves every rank with the whole step, and all numbers right.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from shardproof.proving.cause import Cause, CauseKind
from shardproof.proving.findings import Finding, Sharding, Verdict
from shardproof.proving.judging.layout import PADDING
from shardproof.proving.records import Key, Phase

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from shardproof.proving.axes import Axes
    from shardproof.proving.judging.layout import Layout
    from shardproof.proving.records import Records

_OF_REPLICAS = ("allreduce", "broadcast")


def describe_sharding(
    layout: Layout, axes: Axes, ranks: Sequence[Records], unmatched: Sequence[str] = (), *, own_training: bool = False
) -> Sharding:
    """How many of the reference's parameters are split, and along which axes of the mesh nothing is.

    A parameter is split if not all of it is on every rank. An axis is idle if its ranks hold the same elements, compute
    the same values, and send each other no parts of tensors. Along a data axis the prover gives each rank rows of its
    own; a training of the user's own splits the batch itself, or not.

    Args:
        layout: of the candidate.
        axes: of its mesh.
        ranks: one run of each rank.
        unmatched: entries of the plan that match no module.
        own_training: the candidate is the user's own training step.
    """
    whole = dict(zip(layout.state.names, (shape.numel() for shape in layout.state.shapes), strict=True))
    split = sum(any(count < whole[name] for count in _count_held(layout, name, len(ranks))) for name in whole)
    given_rows = () if own_training else axes.data
    idle = tuple(
        name
        for name, size in axes.sizes.items()
        if size > 1 and name not in given_rows and _is_idle(layout, axes, ranks, name)
    )
    return Sharding(parameters=len(whole), split=split, idle=idle, unmatched=tuple(unmatched))


def judge_splitting(sharding: Sharding, axes: Axes) -> tuple[Finding, ...]:
    """A finding for each idle axis, if nothing is split at all, or by the plan: entries match no module.

    Another idle axis may be one of replicas, which is meant: the report names it, and the rest is proved.

    Args:
        sharding: what the candidate splits.
        axes: of its mesh.
    """
    real = {name for name, size in axes.sizes.items() if size > 1}
    of_plan = real - set(axes.data)
    nothing_at_all = real <= set(sharding.idle)
    nothing_by_plan = bool(sharding.unmatched) and of_plan <= set(sharding.idle)
    if not nothing_at_all and not nothing_by_plan:
        return ()
    return tuple(
        Finding(
            key=Key(0, Phase.SHARDING, name),
            verdict=Verdict.VACUOUS,
            cause=Cause(kind=CauseKind.NOTHING_SPLIT, axes=(name,), entries=sharding.unmatched),
            root=True,
        )
        for name in sharding.idle
    )


def _count_held(layout: Layout, name: str, ranks: int) -> list[int]:
    """How many elements of one of the reference's parameters each rank holds."""
    span = layout.state.span(name)
    counts = [0] * ranks
    for one in layout.element_index:
        if one != name and name not in layout.spans(one):
            continue
        for rank, index in layout.element_index[one].items():
            if rank in layout.parts.get(one, {}):  # no element is in a part twice
                counts[rank] += index.numel() if one == name else 0
                continue
            counts[rank] += len(index[(index >= span.start) & (index < span.stop)].unique())
    return counts


def _is_idle(layout: Layout, axes: Axes, ranks: Sequence[Records], name: str) -> bool:
    """Whether the ranks along an axis hold the same elements and compute the same values."""
    pairs = [(line[0], rank) for line in axes.groups([name]) for rank in line[1:]]
    return (
        all(_hold_alike(held, *pair) for held in layout.element_index.values() for pair in pairs)
        and all(_compute_alike(ranks[one], ranks[other]) for one, other in pairs)
        and not any(_sends_parts(ranks[rank], pair) for pair in pairs for rank in pair)
    )


def _hold_alike(held: Mapping[int, torch.Tensor], one: int, other: int) -> bool:
    """Whether two ranks hold the same elements; padding, which a rank may hold beside another's values, aside."""
    if one not in held or other not in held:
        return one not in held and other not in held
    first, second = held[one], held[other]
    if torch.equal(first, second):
        return True
    padding = (first == PADDING) | (second == PADDING) if first.shape == second.shape else None
    return padding is not None and not bool(((first != second) & ~padding).any())


def _compute_alike(one: Records, other: Records) -> bool:
    """Whether all that is recorded is equal: activations, gradients, states and updates."""
    return one.tensors.keys() == other.tensors.keys() and all(
        torch.equal(recorded.values.nan_to_num(), other.tensors[key].values.nan_to_num())
        for key, recorded in one.tensors.items()
    )


def _sends_parts(records: Records, ranks: Sequence[int]) -> bool:
    """Whether collectives over these ranks put parts of tensors together, or take them apart.

    That is work shared out that no tensor shows: an optimizer that updates its part and gathers all. An all-reduce and
    a broadcast may be of replicas, and a gathered number may be a loss that is logged.
    """
    return any(
        set(ranks) <= set(call.ranks)
        and not call.kind.lower().replace("_", "").startswith(_OF_REPLICAS)
        and "float" in call.dtype
        and max(map(math.prod, call.shapes), default=0) > len(call.ranks)
        for call in records.collectives
    )
