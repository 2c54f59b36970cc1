"""Placement: which part of an activation each rank should hold, inferred from shapes, or values where several fit.

Along each axis of the mesh the ranks hold the same, or shards along one dim, in order or in another one
(`permutations.py`). Whether what they hold is right, or only a
part of a sum, is not decided here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING

import torch

from shardproof.proving.judging.permutations import KnownOrders, find_order, is_whole_shards

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from shardproof.proving.axes import Axes
    from shardproof.proving.judging.layout import Layout
    from shardproof.proving.judging.permutations import Order


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """`dims[axis]` is the dim of which the ranks along the axis hold shards; None where they hold the same."""

    dims: Mapping[str, int | None]
    axes: Axes

    def along(self, dim: int) -> list[str]:
        """The axes that split a dim, outermost first: data axes split a batch's rows before other axes do."""
        names = [name for name, split in self.dims.items() if split == dim]
        return sorted(names, key=lambda name: name not in self.axes.data)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedActivation:
    """Which part of an activation each rank should hold.

    Attributes:
        placement: over the mesh.
        shapes: by rank, of what it holds.
        features: by rank, the features of the last dim that it holds, in its own order; see `find_rows`.
        permuted: the dim that the ranks hold in an order of their own, and by rank its indices there.
        certain: another order would not hold the same values.
    """

    placement: Placement
    shapes: Mapping[int, torch.Size]
    features: Mapping[int, Tensor] | None = None
    permuted: tuple[int, Order] | None = None
    certain: bool = True

    def parts_of(self, whole: Tensor) -> dict[int, Tensor] | None:
        """By rank its part of a tensor shaped like the activation on one device; None if the shapes do not fit."""
        return _parts_of(whole, self.shapes, self.placement, self.features, self.permuted)


def place_activation(
    parts: Mapping[int, Tensor],
    whole: Tensor,
    axes: Axes,
    features: Mapping[int, Tensor] | None = None,
    known: KnownOrders | None = None,
) -> dict[int, Tensor] | None:
    """The part of the whole that each rank should hold; None if no placement fits. See `find_placement`."""
    placed = find_placement(parts, whole, axes, features, known)
    return None if placed is None else placed.parts_of(whole)


def find_placement(
    parts: Mapping[int, Tensor],
    whole: Tensor,
    axes: Axes,
    features: Mapping[int, Tensor] | None = None,
    known: KnownOrders | None = None,
) -> PlacedActivation | None:
    """Which part of the whole each rank should hold; None if no placement fits the shapes.

    Args:
        parts: what the ranks hold.
        whole: the tensor on one device.
        axes: of the mesh.
        features: by rank, the features of the last dim that it holds, in its own order; see `find_rows`.
        known: the orders of activations before this one; one that is certain here is added.
    """
    known = KnownOrders() if known is None else known
    fitting: list[PlacedActivation] = []
    shapes = {rank: part.shape for rank, part in parts.items()}
    for placement in _placements(whole.ndim, axes):
        placed = PlacedActivation(placement=placement, shapes=shapes, features=features)
        wanted = placed.parts_of(whole)
        if wanted is not None:
            if all(torch.equal(part, wanted[rank]) for rank, part in parts.items()):
                return placed
            fitting.append(placed)
    for placed in fitting:
        permuted = _permute(placed, parts, whole, known)
        if permuted is not None:
            return permuted
    return next((_as_known(placed, whole, known) for placed in fitting), None)


def _permute(
    placed: PlacedActivation, parts: Mapping[int, Tensor], whole: Tensor, known: KnownOrders
) -> PlacedActivation | None:
    """The placement with one dim in another order, if it is then what the ranks hold. Features are not exchanged."""
    for dim in range(whole.ndim):
        along = placed.placement.along(dim)
        if not along:
            continue
        others = {name: split for name, split in placed.placement.dims.items() if split != dim}
        unsplit = replace(placed.placement, dims={**dict.fromkeys(along), **others})
        shapes = {
            rank: torch.Size([*shape[:dim], whole.shape[dim], *shape[dim + 1 :]])
            for rank, shape in placed.shapes.items()
        }
        wholes = _parts_of(whole, shapes, unsplit, placed.features)
        found = None if wholes is None else find_order(parts, wholes, dim, along, placed.placement.axes)
        if found is None or (dim == whole.ndim - 1 and is_whole_shards(found[0])):
            continue
        order, certain = found
        if certain:
            known.learn(along, whole.shape[dim], order)
        return replace(placed, permuted=(dim, order), certain=certain)
    return None


def _as_known(placed: PlacedActivation, whole: Tensor, known: KnownOrders) -> PlacedActivation:
    """The placement in the order of activations before this one, which holds other values than it should."""
    for dim in range(whole.ndim):
        along = placed.placement.along(dim)
        order = known.of(along, whole.shape[dim]) if along else None
        if order is not None and all(len(order.get(rank, ())) == shape[dim] for rank, shape in placed.shapes.items()):
            return replace(placed, permuted=(dim, order))
    return placed


def _placements(ndim: int, axes: Axes) -> Iterator[Placement]:
    """All placements, the likeliest first: replicated along each axis, or rows split along data axes."""
    names = [name for name, size in axes.sizes.items() if size > 1]
    dims = [(0, None, *range(1, ndim)) if name in axes.data and ndim else (None, *range(ndim)) for name in names]
    for chosen in product(*dims):
        yield Placement(dims=dict(zip(names, chosen, strict=True)), axes=axes)


def _parts_of(
    whole: Tensor,
    shapes: Mapping[int, torch.Size],
    placement: Placement,
    features: Mapping[int, Tensor] | None,
    permuted: tuple[int, Order] | None = None,
) -> dict[int, Tensor] | None:
    """The parts of the whole under a placement, if they have the shapes of what the ranks hold."""
    if any(len(shape) != whole.ndim for shape in shapes.values()):
        return None
    wanted = dict.fromkeys(shapes, whole)
    for dim in range(whole.ndim):
        along = placement.along(dim)
        lengths: dict[int, int] = {}
        for rank, shape in shapes.items():
            if lengths.setdefault(placement.axes.number(rank, along), shape[dim]) != shape[dim]:
                return None
        if sum(lengths.values()) != whole.shape[dim]:
            return None
        ordered = features if along and dim == whole.ndim - 1 and _fit(features, shapes) else None
        for rank in shapes:
            number = placement.axes.number(rank, along)
            start = sum(length for other, length in lengths.items() if other < number)
            if permuted is not None and permuted[0] == dim:
                wanted[rank] = wanted[rank].index_select(dim, permuted[1][rank])
            elif ordered is not None:
                wanted[rank] = wanted[rank][..., ordered[rank]]
            elif along:
                wanted[rank] = wanted[rank].narrow(dim, start, lengths[number])
    return wanted


def _fit(features: Mapping[int, Tensor] | None, shapes: Mapping[int, torch.Size]) -> bool:
    return features is not None and all(len(features[rank]) == shape[-1] for rank, shape in shapes.items())


# Rows of weights ---------------------------------------------------------------------------------------------------


def find_rows(layout: Layout, module: str, axes: Axes) -> Mapping[int, Tensor] | None:
    """The rows of `module.weight` that each rank computes with, in its own order; None if ranks do not split them.

    They are also the features of the module's output that the rank computes. Those of a fused [gate; up] need not be
    contiguous.

    Rows that ranks along the data axes hold in shards (as with FSDP2) are all gathered for the forward, in rank order.
    None if there is no such matrix, or its rows are not split over the ranks, each on exactly one of them.
    """
    name = f"{module}.weight"
    if name not in layout.element_index or name not in layout.state.names:
        return None
    shape = layout.state.shapes[layout.state.names.index(name)]
    if len(shape) != 2:
        return None
    start = layout.state.span(name).start
    # By rows, as nn.Linear has its output features, or by columns, as transformers' Conv1D has them.
    address = torch.arange(shape.numel()).view(shape)
    for by_feature in (address, address.T):
        own = {rank: _rows(index - start, by_feature) for rank, index in layout.element_index[name].items()}
        found = _share_out(own, len(by_feature), axes)
        if found is not None:
            return found
    return None


def _share_out(own: Mapping[int, Tensor | None], count: int, axes: Axes) -> Mapping[int, Tensor] | None:
    """The rows that each rank computes with, if each row is on exactly one rank."""
    gathered: dict[int, Tensor] = {}
    for group in axes.groups(axes.data):
        parts = [rows for rank in group if (rows := own.get(rank)) is not None]
        if len(parts) < len(group):
            return None
        same = all(torch.equal(part, parts[0]) for part in parts)
        gathered |= dict.fromkeys(group, parts[0] if same else torch.cat(parts))
    one_share = [gathered[group[0]] for group in axes.groups(axes.data)]
    return gathered if torch.equal(torch.cat(one_share).sort().values, torch.arange(count)) else None


def _rows(element_index: Tensor, address: Tensor) -> Tensor | None:
    """Which rows of `address` a rank's elements are (or columns, where it is transposed), if they are whole ones."""
    if element_index.ndim != 2:
        return None  # a flat shard of a matrix
    local = element_index if address.is_contiguous() else element_index.T
    if local.shape[1] != address.shape[1] or not local.shape[1]:
        return None
    rows = local[:, 0] // address.stride(0)
    if bool(((local < 0).any(1) | (rows >= len(address))).any()):
        return None  # padding, or another parameter's elements
    return rows if torch.equal(address[rows], local) else None
