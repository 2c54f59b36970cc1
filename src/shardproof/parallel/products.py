"""The products of a split linear layer, each an autograd Function with its backward by hand.

In the shape comments B is the product of all dims of the input but the last; I and O are the full layer's input and
output features, i and o this rank's share of them. `dz` is short for dL/dz. A weight's gradient is computed while the
collective of the input's gradient runs. Nothing is computed or saved for a tensor that requires no gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from shardproof.errors import CannotRunError
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
    """How a product is split. "Input" is a column split's, "output" a row split's, but for `features`.

    Attributes:
        axis: the ranks.
        dim: along which ranks hold shards of the input (column) or output (row); None where it is replicated.
        length: of the full input along `dim` (column), if that is not the features; None where shards are equal.
        features: of the full output (column) or input (row) where every rank has all of it; None where it is a shard.
    """

    axis: Axis
    dim: int | None
    length: int | None = None
    features: int | None


def multiply_columns(x: Tensor, W: Tensor, b: Tensor | None, split: Split) -> Tensor:
    """Product z = x W^T + b by a shard of W's rows forward; dx = dz W summed, dW = dz^T x, db = sum dz backward.

    Args:
        x: [..., I], or a shard of it along `split.dim`.
        W: [o, I].
        b: [o], or None.
        split: how x and z are split.

    Returns:
        z: [..., o], or [..., O] where `split.features` is O.

    Raises:
        CannotRunError: x is not of these shapes.
    """
    x, W, b = _cast(x, W, b)
    if split.dim is None and split.features is None and not (x.requires_grad and torch.is_grad_enabled()):
        # Nothing to communicate, forward or backward: PyTorch's own backward, which is not Python.
        _check_features(x, W.shape[1], split)
        return F.linear(x, W, b)
    z: Tensor = _Columns.apply(x, W, b, split)  # type: ignore[no-untyped-call]
    return z


def multiply_rows(x: Tensor, W: Tensor, b: Tensor | None, split: Split) -> Tensor:
    """Product z = sum over ranks of x W^T, + b, forward; dx = dz W, dW = dz^T x, db = sum dz backward.

    Args:
        x: [..., i], or [..., I] where `split.features` is I.
        W: [O, i].
        b: [O], or None; the first rank adds it to its partial sum.
        split: how x and z are split.

    Returns:
        z: [..., O], or a shard of it along `split.dim`.

    Raises:
        CannotRunError: x is not of these shapes.
    """
    z: Tensor = _Rows.apply(*_cast(x, W, b), split)  # type: ignore[no-untyped-call]
    return z


class _Columns(torch.autograd.Function):
    """z = x W^T + b forward; dx = dz W summed over the ranks, dW = dz^T x, db = sum dz backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, W: Tensor, b: Tensor | None, split: Split) -> Tensor:
        if split.dim is not None:
            total = W.shape[1] if split.dim % x.ndim == x.ndim - 1 else split.length
            x = all_gather(x, split.axis, dim=split.dim, total=total)  # [..., I]
        _check_features(x, W.shape[1], split)
        ctx.split, ctx.shape = split, x.shape
        dx, dW, ctx.db, _ = ctx.needs_input_grad
        ctx.save_for_backward(x if dW else None, W if dx else None)
        z = F.linear(x, W, b)  # [..., o]
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
        dW = None if x is None else dz.T @ _flatten(x)  # [o, I]
        db = dz.sum(0) if ctx.db else None  # [o]
        return None if pending is None else pending.wait(), dW, db, None


def _start_input_gradient(dz: Tensor, W: Tensor, shape: torch.Size, split: Split) -> Pending[Tensor]:
    """Start the sum of dx = dz W over the ranks: [..., I], or this rank's shard of it."""
    if split.dim is None:
        return start_all_reduce((dz @ W).view(shape), split.axis)  # [..., I]
    dim = split.dim % len(shape)
    lengths = shard_sizes(shape[dim], split.axis.size)
    if dim == len(shape) - 1:
        # One product a rank, so that each rank's part is contiguous; the parts of one dz W would have to be copied.
        parts = [(dz @ w).view(*shape[:-1], w.shape[1]) for w in W.split(lengths, 1)]  # [..., I / size] each
    else:
        parts = list((dz @ W).view(shape).split(lengths, dim))  # [.., length / size, .., I] each
    return start_reduce_scatter(parts, split.axis, dim=dim)


class _Rows(torch.autograd.Function):
    """z = sum over ranks of x W^T, + b, forward; dx = dz W, dW = dz^T x, db = sum dz backward, with the full dz."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, W: Tensor, b: Tensor | None, split: Split) -> Tensor:
        axis = split.axis
        if split.features is not None:
            _check_features(x, split.features, split)
            x = own_shard(x, axis, dim=-1)  # [..., i]
        _check_features(x, W.shape[1], split)
        dx, dW, ctx.db, _ = ctx.needs_input_grad
        ctx.save_for_backward(x if dW else None, W if dx else None)
        partial = F.linear(x, W, b if axis.rank == 0 else None)  # [..., O]
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
        dW = None if x is None else dz.T @ _flatten(x)  # [O, i]
        db = dz.sum(0) if ctx.db else None  # [O]
        return dx if pending is None else torch.cat(pending.wait(), -1), dW, db, None


def _cast(x: Tensor, W: Tensor, b: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Cast to autocast's dtype. Outside the Function, so that autograd differentiates the casts."""
    if not torch.is_autocast_enabled(x.device.type):
        return x, W, b
    dtype = torch.get_autocast_dtype(x.device.type)
    return x.to(dtype), W.to(dtype), None if b is None else b.to(dtype)


def _flatten(x: Tensor) -> Tensor:
    """[..., F] as [B, F]; a view where possible."""
    return x if x.ndim == 2 else x.reshape(x.shape[:-1].numel(), x.shape[-1])


def _check_features(x: Tensor, needed: int, split: Split) -> None:
    if x.shape[-1] != needed:
        raise CannotRunError(
            f"a split linear layer got {x.shape[-1]} features, in shape {list(x.shape)}; rank {split.axis.rank} of "
            f"{split.axis.size} needs {needed}: say by `input` whether ranks have the full input or shards"
        )
