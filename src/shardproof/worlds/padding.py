"""Unequal shards made equally long, with zeros at the end: gloo's and nccl's collectives take equal parts only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


def pad(shard: Tensor, *, dim: int, length: int) -> Tensor:
    """The shard, `length` long along `dim`; itself if it is."""
    if shard.shape[dim] == length:
        return shard
    return stack_padded([shard], dim=dim, length=length)[0]


def stack_padded(parts: Sequence[Tensor], *, dim: int, length: int) -> Tensor:
    """Parts that differ along `dim` only, counted from the front, each `length` long, stacked along a new first dim."""
    if all(part.shape[dim] == length for part in parts):
        return torch.stack(tuple(parts))
    shape = list(parts[0].shape)
    shape[dim] = length
    stacked = parts[0].new_zeros((len(parts), *shape))
    for place, part in zip(stacked, parts, strict=True):
        place.narrow(dim, 0, part.shape[dim]).copy_(part)
    return stacked
