"""Rows exchanged among ranks, each of which sends others as many as it likes, and their gradients on the way back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from shardproof.errors import CannotRunError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from shardproof.parallel.axis import Axis


def all_to_all(rows: Tensor, axis: Axis, *, sent: Sequence[int], received: Sequence[int]) -> Tensor:
    """Send each rank its rows, and receive one's own. No autograd.

    Args:
        rows: [sum of `sent`, ...], those for the first rank first.
        axis: the ranks.
        sent: how many rows each rank gets, in rank order; 0 is fine.
        received: how many rows each rank sends to this one.

    Returns:
        [sum of `received`, ...], those of the first rank first, in new memory.

    Raises:
        CannotRunError: there are not as many rows as `sent` says, or not a number for each rank.
    """
    if len(sent) != axis.size or len(received) != axis.size or sum(sent) != len(rows):
        raise CannotRunError(
            f"{len(rows)} rows are to be sent as {list(sent)} and received as {list(received)} over {axis.size} ranks: "
            "give a number of rows for each rank, and as many rows as are sent"
        )
    found = rows.new_empty(sum(received), *rows.shape[1:])
    dist.all_to_all_single(found, rows.detach().contiguous(), list(received), list(sent), group=axis.group)
    return found


def exchange_rows(rows: Tensor, axis: Axis, *, sent: Sequence[int], received: Sequence[int]) -> Tensor:
    """All-to-all of rows forward, of their gradients the other way backward. Arguments and errors as for `all_to_all`.

    It is a permutation of the rows of all ranks, so its adjoint is its inverse: `sent` and `received` changed about.
    """
    found: Tensor = _Exchange.apply(rows, axis, tuple(sent), tuple(received))  # type: ignore[no-untyped-call] # torch's
    return found


class _Exchange(torch.autograd.Function):
    """`all_to_all` both ways, which autograd can differentiate again."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, axis: Axis, sent: tuple[int, ...], received: tuple[int, ...]) -> Tensor:
        ctx.axis, ctx.sent, ctx.received = axis, sent, received
        return all_to_all(rows, axis, sent=sent, received=received)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        return exchange_rows(gradient, ctx.axis, sent=ctx.received, received=ctx.sent), None, None, None
