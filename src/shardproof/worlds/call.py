"""`Call`: one collective or message as a value, and the checks of its arguments that every world makes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from shardproof.worlds.communicator import nonnegative_dim, shard_sizes

if TYPE_CHECKING:
    from torch import Tensor, dtype

    from shardproof.worlds.communicator import CollectiveKind, MessageKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What must be equal on all ranks of a collective, or on both of a message but for its kind and `peer`.

    Attributes:
        kind: which.
        name: what is communicated.
        dim: that is gathered or scattered.
        shape: the full tensor's, before a scatter or after a gather.
        dtype: of the tensor.
        peer: the other rank of a message.
    """

    kind: CollectiveKind | MessageKind
    name: str
    dim: int | None
    shape: tuple[int, ...]
    dtype: dtype
    peer: int | None = None

    @property
    def sends(self) -> bool:
        """Whether it is the sender's call of a message."""
        return self.kind == "send"

    def carries(self, other: Call) -> bool:
        """Whether two calls of one message, a send and a receive, are of the same tensor."""
        return (self.name, self.shape, self.dtype) == (other.name, other.shape, other.dtype)

    def __str__(self) -> str:
        where = "" if self.dim is None else f" along dim {self.dim}"
        if self.peer is not None:
            where = f" {'to' if self.sends else 'from'} rank {self.peer}"
        return f"{self.kind} {self.name!r} ({str(self.dtype).removeprefix('torch.')} {list(self.shape)}{where})"


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
    return Call(kind="all_gather", name=name, dim=dim, shape=shape, dtype=shard.dtype)


def call_reduce_scatter(partial: Tensor, *, dim: int, name: str) -> Call:
    """The call that this rank's reduce-scatter makes.

    Raises:
        ValueError: `partial` has no dimension `dim`.
    """
    dim = nonnegative_dim(partial.shape, dim, where=f"reduce_scatter {name!r}: ")
    return Call(kind="reduce_scatter", name=name, dim=dim, shape=tuple(partial.shape), dtype=partial.dtype)


def call_all_reduce(partial: Tensor, *, name: str) -> Call:
    """The call that this rank's all-reduce makes."""
    return Call(kind="all_reduce", name=name, dim=None, shape=tuple(partial.shape), dtype=partial.dtype)


def call_send(tensor: Tensor, *, to: int, name: str, rank: int, size: int) -> Call:
    """The call that this rank's send makes.

    Raises:
        ValueError: there is no other rank `to`.
    """
    return _call_message("send", tensor, peer=to, name=name, rank=rank, size=size)


def call_receive(into: Tensor, *, source: int, name: str, rank: int, size: int) -> Call:
    """The call that this rank's receive makes.

    Raises:
        ValueError: there is no other rank `source`.
    """
    return _call_message("receive", into, peer=source, name=name, rank=rank, size=size)


def _call_message(kind: MessageKind, tensor: Tensor, *, peer: int, name: str, rank: int, size: int) -> Call:
    if not 0 <= peer < size or peer == rank:
        raise ValueError(f"{kind} {name!r}: rank {rank} of {size} has no message with rank {peer}: give another rank")
    return Call(kind=kind, name=name, dim=None, shape=tuple(tensor.shape), dtype=tensor.dtype, peer=peer)


def copy_for_one_rank(tensor: Tensor) -> Tensor:
    """A contiguous copy: the result of any collective in a world of one rank."""
    return tensor.detach().clone(memory_format=torch.contiguous_format)
