"""Rows: which rows of a full weight each rank computes with, and so which features of a module's output it gives."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from shardproof.proving.axes import Axes
    from shardproof.proving.judging.layout import Layout


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
    # By rows, as nn.Linear has its output features, or by columns, as transformers' Conv1D has them.
    address = torch.arange(shape.numel()).view(shape)
    for by_feature in (address, address.T):
        own = {rank: _rows(places - start, by_feature) for rank, places in layout.places[name].items()}
        found = _share_out(own, len(by_feature), axes)
        if found is not None:
            return found
    return None


def _share_out(own: Mapping[int, Tensor | None], count: int, axes: Axes) -> Mapping[int, Tensor] | None:
    """The rows that each rank computes with, if each row goes to one rank."""
    gathered: dict[int, Tensor] = {}
    for group in axes.groups(axes.data):
        parts = [rows for rank in group if (rows := own[rank]) is not None]
        if len(parts) < len(group):
            return None
        same = all(torch.equal(part, parts[0]) for part in parts)
        gathered |= dict.fromkeys(group, parts[0] if same else torch.cat(parts))
    one_share = [gathered[group[0]] for group in axes.groups(axes.data)]
    return gathered if torch.equal(torch.cat(one_share).sort().values, torch.arange(count)) else None


def _rows(places: Tensor, address: Tensor) -> Tensor | None:
    """Which rows of `address` (or of its transpose, transposed) a rank's places are, if they are whole ones."""
    local = places if address.is_contiguous() else places.T
    if local.ndim != 2 or local.shape[1] != address.shape[1] or not local.shape[1]:
        return None
    rows = local[:, 0] // address.stride(0)
    if bool(((local < 0).any(1) | (rows >= len(address))).any()):
        return None  # padding, or another parameter's elements
    return rows if torch.equal(address[rows], local) else None
