"""One call of a collective as a value: what every rank must agree on, and the checks that every world makes alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from shardproof.worlds.communicator import shard_sizes

if TYPE_CHECKING:
    from torch import Tensor, dtype

    from shardproof.worlds.ledger import Collective


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What all ranks must say alike in one collective; `shape` is the whole's, before a scatter or after a gather."""

    collective: Collective
    name: str
    dim: int | None
    shape: tuple[int, ...]
    dtype: dtype

    def __str__(self) -> str:
        along = "" if self.dim is None else f" along dim {self.dim}"
        kind = str(self.dtype).removeprefix("torch.")
        return f"{self.collective} {self.name!r} ({kind} {list(self.shape)}{along})"


def call_all_gather(shard: Tensor, *, dim: int, total: int, name: str, rank: int, size: int) -> Call:
    """What this rank's all-gather says to the others.

    Raises:
        ValueError: `shard` is not as long as this rank's part of `total`, or has no dimension `dim`.
    """
    dim = _count_from_front(shard, dim, f"all_gather {name!r}")
    needed = shard_sizes(total, size)[rank]
    if shard.shape[dim] != needed:
        raise ValueError(
            f"all_gather {name!r}: the shard of shape {list(shard.shape)} is {shard.shape[dim]} long along dim {dim}; "
            f"rank {rank} of {size} holds {needed} of {total}: cut it with shard_range"
        )
    shape = (*shard.shape[:dim], total, *shard.shape[dim + 1 :])
    return Call(collective="all_gather", name=name, dim=dim, shape=shape, dtype=shard.dtype)


def call_reduce_scatter(partial: Tensor, *, dim: int, name: str) -> Call:
    """What this rank's reduce-scatter says to the others.

    Raises:
        ValueError: `partial` has no dimension `dim`.
    """
    dim = _count_from_front(partial, dim, f"reduce_scatter {name!r}")
    return Call(collective="reduce_scatter", name=name, dim=dim, shape=tuple(partial.shape), dtype=partial.dtype)


def call_all_reduce(partial: Tensor, *, name: str) -> Call:
    """What this rank's all-reduce says to the others."""
    return Call(collective="all_reduce", name=name, dim=None, shape=tuple(partial.shape), dtype=partial.dtype)


def copy_alone(tensor: Tensor) -> Tensor:
    """What any collective returns in a world of one rank: the values as they are, in memory of their own."""
    return tensor.detach().clone(memory_format=torch.contiguous_format)


def _count_from_front(tensor: Tensor, dim: int, where: str) -> int:
    if not -tensor.ndim <= dim < tensor.ndim:
        raise ValueError(f"{where}: a tensor of shape {list(tensor.shape)} has no dim {dim}; it has {tensor.ndim}")
    return dim % tensor.ndim
