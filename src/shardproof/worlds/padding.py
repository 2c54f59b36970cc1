"""Padding of uneven shards with zeros at the end: collectives of gloo and nccl take equal parts only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


def pad(shard: Tensor, *, dim: int, length: int) -> Tensor:
    """The shard padded to `length` along `dim`; the shard itself where it has that length."""
    if shard.shape[dim] == length:
        return shard
    return stack_padded([shard], dim=dim, length=length)[0]


def stack_padded(parts: Sequence[Tensor], *, dim: int, length: int) -> Tensor:
    """Stack parts that differ in `dim` (not negative) only, each padded to `length`, along a new first dim."""
    if all(part.shape[dim] == length for part in parts):
        return torch.stack(tuple(parts))
    shape = list(parts[0].shape)
    shape[dim] = length
    stacked = parts[0].new_zeros((len(parts), *shape))
    for row, part in zip(stacked, parts, strict=True):
        row.narrow(dim, 0, part.shape[dim]).copy_(part)
    return stacked
