"""Order: whether elements that nothing in the batch reaches are where the others of their parameter say they belong.

Elements that are used may lie in any order, as the comparison shows that they are used rightly. An element that has no
gradient on one device (a row that no token hits, of a frozen table too) is in no comparison. So the layout of the
others tells: if they all are where a standard sharding has them (replicated, contiguous shards in rank order, or
indices dealt out in turn), these must be there too.
"""

from __future__ import annotations

from itertools import permutations, product
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from shardproof.proving.cause import Cause, CauseKind
from shardproof.proving.findings import Finding, Verdict
from shardproof.proving.judging.layout import PADDING
from shardproof.proving.records import Key, Phase

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from shardproof.proving.axes import Axes
    from shardproof.proving.judging.layout import Layout

    Parts = Mapping[int, Tensor]  # by rank, the number of each element in the full parameter, or PADDING

_LEAST_SLICES = 2  # of a split dim, that are used: from one alone no sharding is told


def judge_order(layout: Layout, axes: Axes, reached: Mapping[str, Tensor]) -> tuple[Finding, ...]:
    """One finding for each parameter with unused elements that are out of place.

    Args:
        layout: of the candidate.
        axes: of its mesh.
        reached: by name, the elements that have a gradient on one device, boolean, of the full parameter's shape.
    """
    found = []
    for name, used in reached.items():
        if name not in layout.element_index or name not in layout.state.names or not bool(used.any()):
            continue
        cause = None if bool(used.all()) else _find_misplaced(_local_parts(layout, name), used, axes)
        if cause is not None:
            key = Key(0, Phase.INITIAL, name)
            found.append(Finding(key=key, verdict=Verdict.WRONG, cause=cause, ranks=cause.ranks, root=True))
    return tuple(found)


def _local_parts(layout: Layout, name: str) -> Parts:
    """Elements of other parameters count as none."""
    span = layout.state.span(name)
    return {
        rank: torch.where((index >= span.start) & (index < span.stop), index - span.start, PADDING)
        for rank, index in layout.element_index[name].items()
    }


def _find_misplaced(parts: Parts, used: Tensor, axes: Axes) -> Cause | None:
    """The cause if a standard sharding has all used elements where they are, and none has the others there too."""
    is_used = torch.cat([used.reshape(-1), used.new_zeros(1)])  # of PADDING, the last one, too
    closest: Cause | None = None
    for expected in _standard_shardings(parts, used, axes):
        differ = {rank: part != expected[rank] for rank, part in parts.items()}
        if not any(bool(one.any()) for one in differ.values()):
            return None
        if any(bool((is_used[part] | is_used[expected[r]])[differ[r]].any()) for r, part in parts.items()):
            continue
        counts = {rank: int((one & (parts[rank] != PADDING)).sum()) for rank, one in differ.items()}
        elements = sum(counts.values())
        if elements and (closest is None or elements < (closest.elements or 0)):
            ranks = tuple(rank for rank, count in counts.items() if count)
            closest = Cause(kind=CauseKind.OUT_OF_PLACE, ranks=ranks, elements=elements)
    return closest


def _standard_shardings(parts: Parts, used: Tensor, axes: Axes) -> Iterator[Parts]:
    """What the ranks hold under each standard sharding that has the shapes of what they do hold."""
    address = torch.arange(used.numel()).view(used.shape)
    shapes = {rank: part.shape for rank, part in parts.items()}
    names = [name for name, size in axes.sizes.items() if size > 1]
    if used.ndim > 1 and all(len(shape) == 1 for shape in shapes.values()):
        address, used = address.view(-1), used.view(-1)  # flat shards
    for whole, mask in ((address, used), (address.T, used.T)) if used.ndim == 2 else ((address, used),):
        for dims in product((None, *range(whole.ndim)), repeat=len(names)):
            if any(_used_slices(mask, dim) < _LEAST_SLICES for dim in dims if dim is not None):
                continue
            for ordered, dealt in product(permutations(zip(names, dims, strict=True)), (False, True)):
                along = {dim: [name for name, one in ordered if one == dim] for dim in range(whole.ndim)}
                expected = _cut(whole, shapes, along, axes, dealt=dealt)
                if expected is not None:
                    yield expected


def _used_slices(used: Tensor, dim: int) -> int:
    return int(used.movedim(dim, 0).flatten(1).any(1).sum()) if used.ndim > 1 else int(used.sum())


def _cut(
    whole: Tensor, shapes: Mapping[int, torch.Size], along: Mapping[int, list[str]], axes: Axes, *, dealt: bool
) -> Parts | None:
    """Each rank's part, padded at the end; None if the shapes are others.

    Args:
        whole: the numbers of the elements.
        shapes: of the ranks' parts.
        along: by dim, the axes that split it, the outermost first.
        axes: of the mesh.
        dealt: the indices of a split dim are dealt out in turn; else each rank has contiguous ones.
    """
    if any(len(shape) != whole.ndim for shape in shapes.values()):
        return None
    found = dict.fromkeys(shapes, whole)
    for dim, names in along.items():
        lengths: dict[int, int] = {}
        for rank, shape in shapes.items():
            if lengths.setdefault(axes.number(rank, names), shape[dim]) != shape[dim]:
                return None
        total, size = sum(lengths.values()), whole.shape[dim]
        if total < size or (total > size and not names):
            return None
        for rank in shapes:
            number = axes.number(rank, names)
            start = sum(length for other, length in lengths.items() if other < number)
            index = torch.arange(start, start + lengths[number])
            if dealt and names:
                index = torch.arange(number, total, len(lengths))
            if len(index) != lengths[number]:
                return None
            taken = found[rank].index_select(dim, index.clamp(max=size - 1))  # some element is used, so size > 0
            beyond = (index >= size).view([-1 if one == dim else 1 for one in range(whole.ndim)])
            found[rank] = taken.masked_fill(beyond, PADDING)
    return found
