"""Coverage: whether the ranks together start with every element of the full state, and each where it should be.

A zero that is none of the reference's values is padding only where the full parameter has no element. So it is an error
if no rank holds an element; if a rank holds zeros where another rank of its replicas holds values; and if the shards of
two ranks overlap where no gradient reaches. Where one does (key-value heads that two ranks share, in one tensor with
query heads that they split), both copies were compared in use, and no more is asked.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from shardproof.proving.cause import Cause, CauseKind, Mend
from shardproof.proving.findings import Finding, Verdict
from shardproof.proving.judging.layout import PADDING
from shardproof.proving.records import Key, Phase

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from shardproof.proving.axes import Axes
    from shardproof.proving.judging.layout import Layout

    Sets = Mapping[int, Tensor]  # by rank, which elements of one of the reference's parameters it holds

_NONE_REACHED: Mapping[str, Tensor] = MappingProxyType({})


def judge_coverage(
    layout: Layout, axes: Axes, frozen: Collection[tuple[int, str]] = (), reached: Mapping[str, Tensor] = _NONE_REACHED
) -> tuple[Finding, ...]:
    """One finding for each parameter of the reference that the ranks do not hold as they should.

    Args:
        layout: of the candidate.
        axes: of its mesh.
        frozen: rank and name of parameters that do not train: zeros there may stand beside another rank's values (a
            bias that is added before a reduction).
        reached: by name, the elements that have a gradient on one device, boolean, of the full parameter's shape.
    """
    found = [(name, _find_fault(name, layout, axes, frozen, reached)) for name in layout.state.names]
    return tuple(
        Finding(key=Key(0, Phase.INITIAL, name), verdict=Verdict.WRONG, cause=cause, ranks=cause.ranks, root=True)
        for name, cause in found
        if cause is not None
    )


def _find_fault(
    name: str, layout: Layout, axes: Axes, frozen: Collection[tuple[int, str]], reached: Mapping[str, Tensor]
) -> Cause | None:
    span = layout.state.span(name)
    holders = [one for one in layout.element_index if one == name or name in layout.spans(one)]
    sets = {one: _sets(layout, one, name) for one in holders}
    held = [elements for of_ranks in sets.values() for elements in of_ranks.values()]
    lost = ~torch.stack(held).any(0) if held else torch.ones(span.stop - span.start, dtype=torch.bool)
    if bool(lost.any()):
        zeroed = _ranks_with_zeros(layout.element_index.get(name, {}), int(lost.numel())) if bool(lost.all()) else ()
        if zeroed:
            return Cause(kind=CauseKind.ZEROED, ranks=zeroed, elements=int(lost.sum()))
        own = sets.get(name, {})
        known = _find_same_shard(own, layout.state.shape(name), axes) or _find_offsets(own, layout.state.shape(name))
        return replace(known or Cause(kind=CauseKind.LOST), elements=int(lost.sum()))
    unreached = ~reached[name].reshape(-1) if name in reached else torch.ones(len(lost), dtype=torch.bool)
    for one in holders:
        local = layout.element_index[one]
        looked_up = {rank: index for rank, index in local.items() if rank not in layout.parts.get(one, {})}
        fault = _find_overlap(sets[one], looked_up, span.start, unreached) or _find_zeroed_replica(
            sets[one], local, axes, one, frozen
        )
        if fault is not None:
            return fault
    return None


def _find_same_shard(sets: Sets, shape: torch.Size, axes: Axes) -> Cause | None:
    """Along some axes all ranks hold the same elements, as many as one of as many shards of some dim has."""
    of_data_last = sorted(axes.choices(), key=lambda names: any(name in axes.data for name in names))
    for names in of_data_last if len(sets) == axes.size else ():
        groups = axes.groups(names)
        count, held = len(groups[0]), int(torch.stack(list(sets.values())).any(0).sum())
        alike = all(torch.equal(sets[rank], sets[group[0]]) for group in groups for rank in group)
        sizes = [(length, size) for length in shape if length for size in (length // count, -(-length // count))]
        shares = {size * (shape.numel() // length) for length, size in sizes}
        if alike and held and held in shares:
            return Cause(kind=CauseKind.SAME_SHARD, axes=names, mend=Mend.OWN_SHARD)
    return None


def _find_offsets(sets: Sets, shape: torch.Size) -> Cause | None:
    """Each rank holds a range of indices of one dim, of lengths that add up to it: so their starts are wrong."""
    for dim, length in enumerate(shape):
        ranges = [_find_range(elements.view(shape).movedim(dim, 0).reshape(length, -1)) for elements in sets.values()]
        known = tuple(one for one in ranges if one is not None)
        if len(known) == len(ranges) > 1 and sum(last - first + 1 for first, last in known) == length:
            return Cause(kind=CauseKind.SHARD_OFFSETS, dim=dim, ranges=known, mend=Mend.OFFSETS)
    return None


def _find_range(held: Tensor) -> tuple[int, int] | None:
    """The first and the last index of a dim of which all elements are held; None if others are held too."""
    indices = held.any(1).nonzero().flatten()
    if not len(indices) or not bool(held[indices].all()) or bool((indices.diff() != 1).any()):
        return None
    return int(indices[0]), int(indices[-1])


def _sets(layout: Layout, holder: str, name: str) -> dict[int, Tensor]:
    span, found = layout.state.span(name), {}
    for rank, index in layout.element_index[holder].items():
        elements = torch.zeros(span.stop - span.start, dtype=torch.bool)
        part = layout.parts.get(holder, {}).get(rank)
        if part is None:
            elements[index[(index >= span.start) & (index < span.stop)] - span.start] = True
        elif holder == name:
            part.put(elements.view(layout.state.shape(name)), values=True)
        found[rank] = elements
    return found


def _ranks_with_zeros(element_index: Mapping[int, Tensor], elements: int) -> tuple[int, ...]:
    """The ranks that hold as many zeros as the parameter has elements, and nothing else."""
    return tuple(
        rank for rank, index in element_index.items() if index.numel() == elements and bool((index == PADDING).all())
    )


def _find_overlap(sets: Sets, element_index: Mapping[int, Tensor], start: int, unreached: Tensor) -> Cause | None:
    """The first two ranks that share elements without holding the same; or a rank that holds an element twice.

    `unreached` says which elements of the parameter have no gradient, `start` where it starts in the full state, and
    `element_index` what the ranks hold whose elements were looked up one by one: of those alone one may be held twice.
    """
    for (rank, one), (other, two) in combinations(_list_overlapping(sets), 2):
        if not bool((one & two).any()):
            continue
        lacking = [r for r, less, more in ((rank, one, two), (other, two, one)) if not bool((less & ~more).any())]
        if lacking:
            return Cause(kind=CauseKind.ZEROED, ranks=tuple(lacking), elements=int((one ^ two).sum()))
        if bool((one & two & unreached).any()):
            return Cause(kind=CauseKind.HELD_TWICE, ranks=(rank, other), elements=int((one & two).sum()))
    for rank, index in element_index.items():
        kept, count = index[(index >= start) & (index < start + len(unreached))].unique(return_counts=True)
        if bool(((count > 1) & unreached[kept - start]).any()):
            return Cause(kind=CauseKind.HELD_TWICE, ranks=(rank,), elements=int((count - 1).sum()))
    return None


def _list_overlapping(sets: Sets) -> list[tuple[int, Tensor]]:
    """The first rank of each set that shares elements with another one: most often none, whatever the ranks are."""
    distinct: dict[bytes, tuple[int, Tensor]] = {}
    for rank, elements in sets.items():
        distinct.setdefault(elements.numpy().tobytes(), (rank, elements))
    times = torch.zeros((), dtype=torch.int32)
    for _, elements in distinct.values():
        times = times + elements
    shared = times > 1
    return [(rank, elements) for rank, elements in distinct.values() if bool((elements & shared).any())]


def _find_zeroed_replica(
    sets: Sets, element_index: Mapping[int, Tensor], axes: Axes, name: str, frozen: Collection[tuple[int, str]]
) -> Cause | None:
    """The ranks that hold nothing but zeros, which train, beside a replica that holds values."""
    empty = {
        rank
        for rank, index in element_index.items()
        if index.numel() and bool((index == PADDING).all()) and (rank, name) not in frozen
    }
    for axis in axes.sizes:
        lines = [[rank for rank in line if rank in sets] for line in axes.groups([axis])]
        if not all(_are_replicas([sets[rank] for rank in line]) for line in lines):
            continue  # the axis splits the parameter
        zeroed = [rank for line in lines for rank in line if rank in empty and any(sets[r].any() for r in line)]
        if zeroed:
            elements = element_index[zeroed[0]].numel()
            return Cause(kind=CauseKind.ZEROED, ranks=tuple(sorted(zeroed)), elements=elements)
    return None


def _are_replicas(sets: list[Tensor]) -> bool:
    """Whether those that hold anything hold the same."""
    holding = [elements for elements in sets if bool(elements.any())]
    return all(torch.equal(elements, holding[0]) for elements in holding)
