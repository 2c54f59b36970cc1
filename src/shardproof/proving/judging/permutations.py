"""Permuted activations: ranks hold slices along one dim in an order of their own, as zigzag context parallelism does.

A slice is found by its values. Where all slices of a tensor differ, the order is certain, and is remembered for the
tensors that come after it: of one that is wrong, the values don't tell.
"""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from shardproof.proving.axes import Axes

Order = dict[int, "Tensor"]  # by rank, the indices along a dim that it holds, in its own order, int64


@dataclass(slots=True, kw_only=True)
class KnownOrders:
    """The orders that were certain so far: by the axes that split a dim, and by the dim's length."""

    orders: dict[tuple[tuple[str, ...], int], Order] = field(default_factory=dict)

    def learn(self, along: Sequence[str], length: int, order: Order) -> None:
        """Remember an order; the first one of its axes and length stays."""
        self.orders.setdefault((tuple(along), length), order)

    def of(self, along: Sequence[str], length: int) -> Order | None:
        """The order that is known, if there is one."""
        return self.orders.get((tuple(along), length))


def find_order(
    parts: Mapping[int, Tensor], wholes: Mapping[int, Tensor], dim: int, along: Sequence[str], axes: Axes
) -> tuple[Order, bool] | None:
    """In which order the ranks hold the slices of a dim, and whether it is certain; None if they don't share them out.

    Args:
        parts: what the ranks hold.
        wholes: by rank, the same with all slices of the dim, in the order of one device.
        dim: that is split.
        along: the axes that split it.
        axes: of the mesh.
    """
    order: Order = {}
    certain = True
    for group in axes.groups(along):
        ranks = [rank for rank in group if rank in parts]
        free: dict[bytes, deque[int]] = defaultdict(deque)
        for index, one in enumerate(_slices(wholes[ranks[0]], dim)) if ranks else ():
            free[one].append(index)
        certain = certain and all(len(indices) == 1 for indices in free.values())
        for rank in ranks:
            own = [free[one].popleft() if free[one] else -1 for one in _slices(parts[rank], dim)]
            if -1 in own:
                return None
            order[rank] = torch.tensor(own, dtype=torch.int64)
        if any(free.values()):
            return None
    return order, certain


def is_whole_shards(order: Order) -> bool:
    """Whether every rank holds a contiguous run: shards, of which only the ranks may be exchanged."""
    return all(bool((own.diff() == 1).all()) for own in order.values())


def _slices(tensor: Tensor, dim: int) -> list[bytes]:
    # As bytes: NumPy has no bfloat16.
    return [one.reshape(-1).contiguous().view(torch.uint8).numpy().tobytes() for one in tensor.unbind(dim)]
