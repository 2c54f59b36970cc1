"""Rows: which rows of a full weight each rank computes with, and so which features of a module's output it gives."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from shardproof.proving.layout import PADDING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from shardproof.proving.axes import Axes
    from shardproof.proving.layout import Layout


def find_rows(layout: Layout, module: str, axes: Axes) -> Mapping[int, Tensor] | None:
    """Rows of `module.weight` by rank, in the rank's own order: a fused [gate; up] is not cut into contiguous pieces.

    Rows that ranks along the data axes hold in shards (FSDP2 does) are all gathered for the forward, in rank order.
    None if there is no such matrix, or the ranks do not share out its rows, each going to one of them.
    """
    name = f"{module}.weight"
    if name not in layout.places or name not in layout.state.names:
        return None
    shape = layout.state.shapes[layout.state.names.index(name)]
    if len(shape) != 2:
        return None
    start = layout.state.span(name).start
    own = {rank: _rows(places, start, shape[1]) for rank, places in layout.places[name].items()}
    gathered: dict[int, Tensor] = {}
    for group in axes.groups(axes.data):
        parts = [rows for rank in group if (rows := own[rank]) is not None]
        if len(parts) < len(group):
            return None
        same = all(torch.equal(part, parts[0]) for part in parts)
        gathered |= dict.fromkeys(group, parts[0] if same else torch.cat(parts))
    one_share = [gathered[group[0]] for group in axes.groups(axes.data)]
    return gathered if torch.equal(torch.cat(one_share).sort().values, torch.arange(shape[0])) else None


def _rows(places: Tensor, start: int, width: int) -> Tensor | None:
    """The rows that a rank holds, if they are whole ones."""
    if places.ndim != 2 or places.shape[1] != width or bool((places == PADDING).any()):
        return None
    rows = (places[:, 0] - start) // width
    return rows if torch.equal(places - start, rows[:, None] * width + torch.arange(width)) else None
