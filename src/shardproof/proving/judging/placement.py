"""Placing: which part of an activation each rank should hold, from its shapes, or values where several fit.

Along each axis of the mesh the ranks hold the same, or shards along one dim. What they hold may be wrong, or a part of
a sum only: that is for others to say.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from shardproof.proving.axes import Axes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Placement:
    """`dims[axis]` is the dim of which the ranks along the axis hold shards; None where they hold the same."""

    dims: Mapping[str, int | None]
    axes: Axes

    def along(self, dim: int) -> list[str]:
        """The axes that share out a dim, outermost first: rows of a batch are given out before they are split again."""
        names = [name for name, its in self.dims.items() if its == dim]
        return sorted(names, key=lambda name: name not in self.axes.data)


def place_activation(
    parts: Mapping[int, Tensor], whole: Tensor, axes: Axes, features: Mapping[int, Tensor] | None = None
) -> dict[int, Tensor] | None:
    """The part of the whole that each rank should hold; None if no placement fits the shapes.

    Args:
        parts: what ranks hold.
        whole: what one device has.
        axes: of the mesh.
        features: where the last dim is of a module whose weight's rows each rank has in an order of its own, these.
    """
    first = None
    for placement in _placements(whole.ndim, axes):
        wanted = _parts_of(whole, parts, placement, features)
        if wanted is not None:
            if all(torch.equal(part, wanted[rank]) for rank, part in parts.items()):
                return wanted
            first = first or wanted
    return first


def _placements(ndim: int, axes: Axes) -> Iterator[_Placement]:
    """All there are, the likeliest first: the same along each axis, or rows along data axes."""
    names = [name for name, size in axes.sizes.items() if size > 1]
    dims = [(0, None, *range(1, ndim)) if name in axes.data and ndim else (None, *range(ndim)) for name in names]
    for chosen in product(*dims):
        yield _Placement(dims=dict(zip(names, chosen, strict=True)), axes=axes)


def _parts_of(
    whole: Tensor, parts: Mapping[int, Tensor], placement: _Placement, features: Mapping[int, Tensor] | None
) -> dict[int, Tensor] | None:
    """The whole's parts, if they have the shapes of the ranks' own."""
    if any(part.ndim != whole.ndim for part in parts.values()):
        return None
    wanted = dict.fromkeys(parts, whole)
    for dim in range(whole.ndim):
        along = placement.along(dim)
        lengths: dict[int, int] = {}
        for rank, part in parts.items():
            if lengths.setdefault(placement.axes.number(rank, along), part.shape[dim]) != part.shape[dim]:
                return None
        if sum(lengths.values()) != whole.shape[dim]:
            return None
        ordered = features if along and dim == whole.ndim - 1 and _fit(features, parts) else None
        for rank in parts:
            number = placement.axes.number(rank, along)
            start = sum(length for other, length in lengths.items() if other < number)
            if ordered is not None:
                wanted[rank] = wanted[rank][..., ordered[rank]]
            elif along:
                wanted[rank] = wanted[rank].narrow(dim, start, lengths[number])
    return wanted


def _fit(features: Mapping[int, Tensor] | None, parts: Mapping[int, Tensor]) -> bool:
    return features is not None and all(len(features[rank]) == part.shape[-1] for rank, part in parts.items())
