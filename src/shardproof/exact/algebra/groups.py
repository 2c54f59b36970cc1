"""Grouped products: one matrix product for each group of rows, columns or inner elements; `torch._grouped_mm`."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor


def multiply_groups(multiply: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor, ends: Sequence[int]) -> Tensor:
    """The product of each group; NaN in the rows or columns that no group has, which PyTorch leaves unwritten.

    Args:
        multiply: of two matrices.
        a: (S, K), rows in groups; (G, M, K); or (M, S), the inner dim in groups.
        b: (G, K, N); (K, S), columns in groups; or (S, N). One of `a` and `b` has two dims, or both.
        ends: of each group in the dim that holds the groups; what lies behind the last one is not read.

    Returns:
        (S, N); (M, S); or (G, M, N).
    """
    groups = [slice(start, end) for start, end in pairwise([0, *ends])]
    if a.ndim == b.ndim:
        return torch.stack([multiply(a[:, group], b[group]) for group in groups])
    grouped = a.shape[0] if a.ndim == 2 else b.shape[1]
    shape = (grouped, b.shape[2]) if a.ndim == 2 else (a.shape[1], grouped)
    found = torch.full(shape, float("nan"), dtype=a.dtype, device=a.device)
    for index, group in enumerate(groups):
        if a.ndim == 2:
            found[group] = multiply(a[group], b[index])
        else:
            found[:, group] = multiply(a[index], b[:, group])
    return found
