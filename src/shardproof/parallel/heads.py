"""Attention heads on ranks: how many each holds, and the KV heads that several ranks hold alike.

With H query heads, K KV heads and N ranks: N divides H, and either N divides K, so that each rank has K / N of them, or
K divides N, and N / K neighbouring ranks hold the same one. These use it for different queries, so its gradient is the
sum of theirs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.distributed as dist

from shardproof.errors import CannotRunError
from shardproof.parallel.axis import Axis
from shardproof.parallel.sharding import Section

if TYPE_CHECKING:
    from collections.abc import Sequence


def check_heads(heads: int, size: int, *, shared: bool, name: str) -> None:
    """Whether the ranks can hold the heads evenly.

    Args:
        heads: how many.
        size: how many ranks.
        shared: whether several ranks may hold one alike.
        name: whose heads, for the message.

    Raises:
        CannotRunError: the ranks do not divide the heads, nor (if `shared`) the heads the ranks.
    """
    if heads % size and not (shared and size % heads == 0):
        needed = "ranks that divide the heads, or that the heads divide" if shared else "ranks that divide the heads"
        raise CannotRunError(f"{name}: {heads} heads on {size} ranks; needed are {needed}")


def head_sections(widths: Sequence[int], head_dim: int, size: int, *, name: str) -> tuple[Section, ...]:
    """The sections of a projection that fuses parts of whole heads: [Q; K; V], or one of them.

    Args:
        widths: of each part. Parts with fewer heads than the widest are KV, which ranks may share.
        head_dim: of each head.
        size: how many ranks.
        name: of the projection, for messages.

    Raises:
        CannotRunError: a width is no multiple of `head_dim`, or the ranks cannot hold the heads.
    """
    for width in widths:
        if width % head_dim:
            raise CannotRunError(f"{name}: a width of {width} is no multiple of a head's {head_dim}")
        check_heads(width // head_dim, size, shared=width < max(widths), name=name)
    return tuple(Section(length=width, unit=head_dim, shared=width < max(widths)) for width in widths)


def axis_of_sharers(axis: Axis, heads: int) -> Axis | None:
    """The ranks that hold the same KV head as this one; None where no two do.

    A new process group: each rank of the axis must call this. Layers share the result.
    """
    if heads >= axis.size:
        return None
    together = axis.size // heads
    first = axis.rank // together * together
    members = dist.get_process_group_ranks(axis.group)[first : first + together]
    group = dist.new_group(members, use_local_synchronization=True)
    assert isinstance(group, dist.ProcessGroup)
    return Axis(
        group=group,
        name=f"{axis.name} with the same KV head",
        rank=axis.rank - first,
        size=together,
        by_exchange=axis.by_exchange,
    )
