"""`Call`: one call of a collective as a value, and the checks of its arguments that every world makes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from shardproof.worlds.communicator import nonnegative_dim, shard_sizes

if TYPE_CHECKING:
    from torch import Tensor, dtype

    from shardproof.worlds.communicator import CollectiveKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What must be equal on all ranks; `shape` is the full tensor's, before a scatter or after a gather."""

    collective: CollectiveKind
    name: str
    dim: int | None
    shape: tuple[int, ...]
    dtype: dtype

    def __str__(self) -> str:
        along = "" if self.dim is None else f" along dim {self.dim}"
        kind = str(self.dtype).removeprefix("torch.")
        return f"{self.collective} {self.name!r} ({kind} {list(self.shape)}{along})"


def call_all_gather(shard: Tensor, *, dim: int, total: int, name: str, rank: int, size: int) -> Call:
    """The call that this rank's all-gather makes.

    Raises:
        ValueError: `shard` is not as long as this rank's part of `total`, or has no dimension `dim`.
    """
    dim = nonnegative_dim(shard.shape, dim, where=f"all_gather {name!r}: ")
    needed = shard_sizes(total, size)[rank]
    if shard.shape[dim] != needed:
        raise ValueError(
            f"all_gather {name!r}: the shard of shape {list(shard.shape)} is {shard.shape[dim]} long along dim {dim}; "
            f"rank {rank} of {size} holds {needed} of {total}: cut it with shard_range"
        )
    shape = (*shard.shape[:dim], total, *shard.shape[dim + 1 :])
    return Call(collective="all_gather", name=name, dim=dim, shape=shape, dtype=shard.dtype)


def call_reduce_scatter(partial: Tensor, *, dim: int, name: str) -> Call:
    """The call that this rank's reduce-scatter makes.

    Raises:
        ValueError: `partial` has no dimension `dim`.
    """
    dim = nonnegative_dim(partial.shape, dim, where=f"reduce_scatter {name!r}: ")
    return Call(collective="reduce_scatter", name=name, dim=dim, shape=tuple(partial.shape), dtype=partial.dtype)


def call_all_reduce(partial: Tensor, *, name: str) -> Call:
    """The call that this rank's all-reduce makes."""
    return Call(collective="all_reduce", name=name, dim=None, shape=tuple(partial.shape), dtype=partial.dtype)


def copy_for_one_rank(tensor: Tensor) -> Tensor:
    """A contiguous copy: the result of any collective in a world of one rank."""
    return tensor.detach().clone(memory_format=torch.contiguous_format)
