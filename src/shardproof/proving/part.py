"""A local tensor as a part of a full one: in each dim some of its indices, in any order.

Nearly all shards are: contiguous rows or columns, rows dealt out in turn, the rows of a fused [q; k; v]. A part is
found in a few passes over the full tensor, and taken of another tensor of that shape by slicing it; to look every
element up takes a sort. Padding, transposes and mixtures of several parameters are no parts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Part:
    """Some indices of each dim of a full tensor; no element is in it twice.

    Attributes:
        indices: of each dim a slice, or in at most one dim an int64 vector.
    """

    indices: tuple[slice | Tensor, ...]

    @classmethod
    def whole(cls, shape: torch.Size) -> Part:
        """All elements of a tensor of this shape."""
        return cls(tuple(slice(0, size) for size in shape))

    def of(self, full: Tensor) -> Tensor:
        """These elements of a full tensor: a view, unless a dim's indices are a vector."""
        slices = tuple(index if isinstance(index, slice) else slice(None) for index in self.indices)
        taken = full[slices] if slices else full
        for dim, index in enumerate(self.indices):
            if not isinstance(index, slice):
                taken = taken.index_select(dim, index)
        return taken

    def put(self, full: Tensor, values: Tensor | bool) -> None:
        """Write values into these elements of a full tensor."""
        full[self.indices or ...] = values


def find_part(local: Tensor, full: Tensor) -> Part | None:
    """Which part of a full tensor holds the very values of the local one; None if none does, or several may.

    Args:
        local: of any shape; an empty one is the first part of its shape.
        full: its values are all different; of any that are not, nothing is said.
    """
    if local.ndim != full.ndim or any(few > many for few, many in zip(local.shape, full.shape, strict=True)):
        return None
    if not local.numel():
        return Part.whole(local.shape)
    local = local.to(full.dtype)
    if local.shape == full.shape and torch.equal(local, full):
        return Part.whole(full.shape)
    corner = (full == local[(0,) * local.ndim]).nonzero()
    if len(corner) != 1:
        return None
    first = tuple(corner[0].tolist())
    # If it is a part, the lines of both through the first local element hold the same values along each dim.
    found = []
    for dim in range(full.ndim):
        along = (*first[:dim], slice(None), *first[dim + 1 :])
        index = _find_in_line(local[(0,) * dim + (slice(None),) + (0,) * (full.ndim - dim - 1)], full[along])
        if index is None:
            return None
        found.append(_as_slice(index))
    if sum(not isinstance(index, slice) for index in found) > 1:
        return None
    part = Part(tuple(found))
    return part if torch.equal(part.of(full), local) else None


def _find_in_line(local: Tensor, full: Tensor) -> Tensor | None:
    """Where the values of a vector are in another one, each once; None if some are not."""
    values, order = full.sort()
    at = torch.searchsorted(values, local.contiguous()).clamp_(max=len(values) - 1)
    index = order[at]
    if not torch.equal(values[at], local) or len(index.unique()) < len(index):
        return None
    return index


def _as_slice(index: Tensor) -> slice | Tensor:
    """The indices as a slice, if they ascend evenly."""
    first, steps = int(index[0]), index.diff()
    step = int(steps[0]) if len(steps) else 1
    if step < 1 or not bool((steps == step).all()):
        return index
    return slice(first, int(index[-1]) + 1, step)
