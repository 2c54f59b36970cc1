"""Collectives with their backward, Megatron style: each an autograd Function on plain tensors, over all ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

if TYPE_CHECKING:
    from torch.autograd.function import FunctionCtx


def all_reduced(x: Tensor, op: Any = dist.ReduceOp.SUM) -> Tensor:
    """The sum over ranks, as a new tensor; not differentiable."""
    x = x.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(x, op)
    return x


def gathered(x: Tensor) -> Tensor:
    """All ranks' tensors concatenated along dim 0; not differentiable."""
    x = x.detach().contiguous()
    whole = x.new_empty(dist.get_world_size() * x.shape[0], *x.shape[1:])
    dist.all_gather_single(whole, x)
    return whole


def reduce_scattered(x: Tensor) -> Tensor:
    """The sum over ranks, of which each keeps its part of dim 0; not differentiable."""
    x = x.detach().contiguous()
    own = x.new_empty(x.shape[0] // dist.get_world_size(), *x.shape[1:])
    dist.reduce_scatter_single(own, x)
    return own


def own_part(x: Tensor) -> Tensor:
    """This rank's part of dim 0."""
    return x.chunk(dist.get_world_size())[dist.get_rank()]


class Copy(torch.autograd.Function):
    """Identity forward, all-reduce backward: what all ranks hold alike enters what each does apart."""

    @staticmethod
    def forward(_ctx: FunctionCtx, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(_ctx: FunctionCtx, grad: Tensor) -> Tensor:
        return all_reduced(grad)


class Reduce(torch.autograd.Function):
    """All-reduce forward, identity backward."""

    @staticmethod
    def forward(_ctx: FunctionCtx, x: Tensor) -> Tensor:
        return all_reduced(x)

    @staticmethod
    def backward(_ctx: FunctionCtx, grad: Tensor) -> Tensor:
        return grad


class Gather(torch.autograd.Function):
    """All-gather along dim 0 forward, reduce-scatter backward."""

    @staticmethod
    def forward(_ctx: FunctionCtx, x: Tensor) -> Tensor:
        return gathered(x)

    @staticmethod
    def backward(_ctx: FunctionCtx, grad: Tensor) -> Tensor:
        return reduce_scattered(grad)


class ReduceScatter(torch.autograd.Function):
    """Reduce-scatter along dim 0 forward, all-gather backward."""

    @staticmethod
    def forward(_ctx: FunctionCtx, x: Tensor) -> Tensor:
        return reduce_scattered(x)

    @staticmethod
    def backward(_ctx: FunctionCtx, grad: Tensor) -> Tensor:
        return gathered(grad)


class SumOverReplicas(torch.autograd.Function):
    """Identity forward; backward the sum over the ranks that hold the same: runs of `replicas` neighbours."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, replicas: int) -> Tensor:
        ctx.replicas = replicas
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        groups = gathered(grad[None]).unflatten(0, (-1, ctx.replicas))
        return groups[dist.get_rank() // ctx.replicas].sum(0), None
