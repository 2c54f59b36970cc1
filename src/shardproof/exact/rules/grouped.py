"""Grouped matrix products: the experts of a mixture, each with the rows that were routed to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from shardproof.exact.algebra.residue import Residue
from shardproof.exact.rules.registry import formula, runs_on_reals

if TYPE_CHECKING:
    from torch import Tensor

    from shardproof.exact.algebra.residue import Arithmetic

# How programs count the rows of each group, from integers.
runs_on_reals("histc.default")


@formula("_grouped_mm.default")
def grouped_product(
    m: Arithmetic,
    a: Residue,
    b: Residue,
    offsets: Tensor | None = None,
    bias: Residue | None = None,
    out_dtype: torch.dtype | None = None,
) -> Residue:
    """The product of each group, whose end in the dim that holds the groups `offsets` gives; `torch._grouped_mm`.

    (S, K), (G, K, N) -> (S, N), rows in groups. (M, K), (G, K, S) with a of three dims and b of two: columns in groups.
    (M, S), (S, N) -> (G, M, N), the inner dim in groups. (G, M, K), (G, K, N) -> (G, M, N).
    """
    del out_dtype
    if a.ndim == b.ndim == 3:
        product = a @ b
        return product if bias is None else product + bias
    if offsets is None or bias is not None:
        raise NotImplementedError("a grouped product without offsets, or with a bias")
    ends = offsets.tolist()
    rows, columns = a.tensor, b.tensor
    grouped = rows.shape[-1] if a.ndim == b.ndim else rows.shape[0] if a.ndim == 2 else columns.shape[1]
    if ends[-1] != grouped:
        raise NotImplementedError(f"groups that end at {ends[-1]} of {grouped}: PyTorch leaves the rest unwritten")
    groups = [slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    degree = (a.degree * b.degree).sum_of(rows.shape[-1])
    if a.ndim == b.ndim:
        parts = [m.field.matmul(rows[:, group], columns[group]) for group in groups]
        return Residue(torch.stack(parts), degree, m)
    if a.ndim == 2:
        parts = [m.field.matmul(rows[group], columns[i]) for i, group in enumerate(groups)]
        return Residue(torch.cat(parts), degree, m)
    parts = [m.field.matmul(rows[i], columns[:, group]) for i, group in enumerate(groups)]
    return Residue(torch.cat(parts, dim=1), degree, m)
