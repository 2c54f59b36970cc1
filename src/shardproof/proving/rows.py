"""Rows: which rows of a full weight each rank has, and so which features of a module's output it computes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from shardproof.proving.layout import PADDING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from shardproof.proving.layout import Layout


def find_rows(layout: Layout, module: str) -> Mapping[int, Tensor] | None:
    """Rows of `module.weight` by rank, in the rank's own order: a fused [gate; up] is not cut into contiguous pieces.

    None if there is no such matrix, or the ranks do not share out its rows, each going to one of them.
    """
    name = f"{module}.weight"
    if name not in layout.places or name not in layout.state.names:
        return None
    shape = layout.state.shapes[layout.state.names.index(name)]
    start = layout.state.span(name).start
    if len(shape) != 2:
        return None
    rows = {}
    for rank, places in layout.places[name].items():
        if places.ndim != 2 or places.shape[1] != shape[1] or bool((places == PADDING).any()):
            return None
        rows[rank] = (places[:, 0] - start) // shape[1]
        if not torch.equal(places - start, rows[rank][:, None] * shape[1] + torch.arange(shape[1])):
            return None
    all_rows = torch.cat(list(rows.values()))
    return rows if torch.equal(all_rows.sort().values, torch.arange(shape[0])) else None
