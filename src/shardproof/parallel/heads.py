"""Attention heads on ranks: how many each rank holds, and KV heads that several ranks replicate.

With H query heads, K KV heads and N ranks, N must divide H. Either N divides K, and each rank holds K / N KV heads, or
K divides N, and N / K neighbouring ranks hold a replica of the same one. Each replica serves other queries, so the KV
head's gradient is the sum over its replicas.
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
    """Check that the ranks can hold the heads evenly.

    Args:
        heads: their number.
        size: the number of ranks.
        shared: whether several ranks may hold a replica of one head.
        name: of the module, for the message.

    Raises:
        CannotRunError: `size` does not divide `heads`, nor (if `shared`) `heads` divide `size`.
    """
    if heads % size and not (shared and size % heads == 0):
        needed = "ranks that divide the heads, or that the heads divide" if shared else "ranks that divide the heads"
        raise CannotRunError(f"{name}: {heads} heads on {size} ranks; needed are {needed}")


def head_sections(widths: Sequence[int], head_dim: int, size: int, *, name: str) -> tuple[Section, ...]:
    """The sections of a projection of whole heads: the fused [Q; K; V], or one of the three.

    Args:
        widths: of each part. Parts narrower than the widest are keys and values; ranks may replicate their heads.
        head_dim: the width of a head.
        size: the number of ranks.
        name: of the projection, for messages.

    Raises:
        CannotRunError: a width is no multiple of `head_dim`, or the ranks cannot hold the heads.
    """
    for width in widths:
        if width % head_dim:
            raise CannotRunError(f"{name}: a width of {width} is no multiple of a head's {head_dim}")
        check_heads(width // head_dim, size, shared=width < max(widths), name=name)
    return tuple(Section(length=width, unit=head_dim, shared=width < max(widths)) for width in widths)


def kv_replica_axis(axis: Axis, heads: int) -> Axis | None:
    """The ranks that hold a replica of this rank's KV head; None where there are as many KV heads as ranks, or more.

    Makes a process group, so every rank of the axis must call it. Layers may share the result.

    Args:
        axis: the ranks.
        heads: the number of KV heads.
    """
    if heads >= axis.size:
        return None
    replicas = axis.size // heads
    first = axis.rank // replicas * replicas
    members = dist.get_process_group_ranks(axis.group)[first : first + replicas]
    group = dist.new_group(members, use_local_synchronization=True)
    assert isinstance(group, dist.ProcessGroup)
    return Axis(
        group=group,
        name=f"{axis.name} with the same KV head",
        rank=axis.rank - first,
        size=replicas,
        by_exchange=axis.by_exchange,
    )
