"""The products of a split linear layer, each an autograd Function with its backward by hand.

In the shape comments B is every dim of the input but the last, I and O are the whole layer's input and output features,
i and o this rank's share of them. `dz` is short for dL/dz. A weight's gradient is computed while the collective of the
input's gradient runs, and nothing is computed or kept for what needs no gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.function import once_differentiable

from shardproof.parallel.collectives import (
    all_gather,
    all_reduce,
    own_shard,
    reduce_scatter,
    start_all_gather,
    start_all_reduce,
    start_reduce_scatter,
)
from shardproof.worlds.communicator import shard_sizes

if TYPE_CHECKING:
    from torch import Tensor

    from shardproof.parallel.axis import Axis
    from shardproof.parallel.collectives import Pending


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """What a product needs to know of its split.

    Attributes:
        axis: the ranks.
        dim: of a column's input or a row's output, along which ranks hold shards of it; None where it is whole.
        total: how long a column's input is along `dim` in all; None if the shards are equally long.
        features: how many a column's output or a row's input has where every rank has all of them; None for a shard.
    """

    axis: Axis
    dim: int | None
    total: int | None
    features: int | None


def multiply_columns(x: Tensor, W: Tensor, b: Tensor | None, split: Split) -> Tensor:
    """Product z = x W^T + b by a shard of W's rows forward; dx = dz W summed, dW = dz^T x, db = sum dz backward.

    Args:
        x: [..., I], or a shard of it along `split.dim`.
        W: [o, I].
        b: [o], or None.
        split: what is gathered.

    Returns:
        z: [..., o], or [..., O] where `split.features` is O.
    """
    return _apply(_Columns, x, W, b, split)


def multiply_rows(x: Tensor, W: Tensor, b: Tensor | None, split: Split) -> Tensor:
    """Product z = sum over ranks of x W^T, + b, forward; dx = dz W, dW = dz^T x, db = sum dz backward.

    Args:
        x: [..., i], or [..., I] where `split.features` is I.
        W: [O, i].
        b: [O], or None; the first rank adds it to its partial sum.
        split: what is gathered and scattered.

    Returns:
        z: [..., O], or a shard of it along `split.dim`.
    """
    return _apply(_Rows, x, W, b, split)


class _Columns(torch.autograd.Function):
    """z = x W^T + b, gathered as asked, forward; dx = dz W summed over ranks, dW = dz^T x, db = sum dz backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, W: Tensor, b: Tensor | None, split: Split) -> Tensor:
        if split.dim is not None:
            x = all_gather(x, split.axis, dim=split.dim, total=split.total)  # [..., I]
        rows = _flatten(x)  # [B, I]
        ctx.split, ctx.shape = split, x.shape
        ctx.save_for_backward(rows if ctx.needs_input_grad[1] else None, W if ctx.needs_input_grad[0] else None)
        z = _multiply(rows, W, b).view(*x.shape[:-1], W.shape[0])  # [..., o]
        return z if split.features is None else all_gather(z, split.axis, dim=-1, total=split.features)  # [..., O]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dz: Tensor) -> tuple[Tensor | None, ...]:
        x, W = ctx.saved_tensors
        split: Split = ctx.split
        if split.features is not None:
            dz = own_shard(dz, split.axis, dim=-1)  # [..., o]
        dz = _flatten(dz)  # [B, o]
        pending = None if W is None else _start_input_gradient(dz, W, ctx.shape, split)
        dW = None if x is None else dz.T @ x  # [o, I]
        db = dz.sum(0) if ctx.needs_input_grad[2] else None  # [o]
        return None if pending is None else pending.wait(), dW, db, None


def _start_input_gradient(dz: Tensor, W: Tensor, shape: torch.Size, split: Split) -> Pending[Tensor]:
    """Begin to sum dx = dz W over the ranks, [..., I], or this rank's shard of it."""
    if split.dim is None:
        return start_all_reduce((dz @ W).view(shape), split.axis)  # [..., I]
    lengths = shard_sizes(shape[split.dim], split.axis.size)
    if split.dim == len(shape) - 1:
        # Column by column, so that what goes to each rank lies together: dz W would have to be cut and copied.
        parts = [(dz @ w).view(*shape[:-1], w.shape[1]) for w in W.split(lengths, 1)]  # [..., i] each
    else:
        parts = list((dz @ W).view(shape).split(lengths, split.dim))  # [.., s, .., I] each
    return start_reduce_scatter(parts, split.axis, dim=split.dim)


class _Rows(torch.autograd.Function):
    """z = sum over ranks of x W^T, + b, forward; dx = dz W, dW = dz^T x, db = sum dz backward, with the whole dz."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, W: Tensor, b: Tensor | None, split: Split) -> Tensor:
        axis = split.axis
        if split.features is not None:
            x = own_shard(x, axis, dim=-1)  # [..., i]
        rows = _flatten(x)  # [B, i]
        ctx.save_for_backward(rows if ctx.needs_input_grad[1] else None, W if ctx.needs_input_grad[0] else None)
        partial = _multiply(rows, W, b if axis.rank == 0 else None).view(*x.shape[:-1], W.shape[0])  # [..., O]
        ctx.split, ctx.shape = split, partial.shape
        return all_reduce(partial, axis) if split.dim is None else reduce_scatter(partial, axis, dim=split.dim)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dz: Tensor) -> tuple[Tensor | None, ...]:
        x, W = ctx.saved_tensors
        split: Split = ctx.split
        if split.dim is not None:
            dz = all_gather(dz, split.axis, dim=split.dim, total=ctx.shape[split.dim])  # [..., O]
        dz = _flatten(dz)  # [B, O]
        dx = None if W is None else (dz @ W).view(*ctx.shape[:-1], W.shape[1])  # [..., i]
        pending = None
        if dx is not None and split.features is not None:
            pending = start_all_gather(dx, split.axis, dim=-1, total=split.features)
        dW = None if x is None else dz.T @ x  # [O, i]
        db = dz.sum(0) if ctx.needs_input_grad[2] else None  # [O]
        return dx if pending is None else torch.cat(pending.wait(), -1), dW, db, None


def _apply(product: type[torch.autograd.Function], x: Tensor, W: Tensor, b: Tensor | None, split: Split) -> Tensor:
    if torch.is_autocast_enabled(x.device.type):
        # Here, where autograd sees it: in a Function, forward and backward would not agree on the dtype.
        dtype = torch.get_autocast_dtype(x.device.type)
        x, W, b = x.to(dtype), W.to(dtype), None if b is None else b.to(dtype)
    z: Tensor = product.apply(x, W, b, split)
    return z


def _flatten(x: Tensor) -> Tensor:
    """[..., F] as [B, F]; a view where it can be."""
    return x if x.ndim == 2 else x.reshape(x.shape[:-1].numel(), x.shape[-1])


def _multiply(x: Tensor, W: Tensor, b: Tensor | None) -> Tensor:
    return x @ W.T if b is None else torch.addmm(b, x, W.T)
