"""A split MLP in Megatron-LM's style: F.linear, and autograd Functions as Megatron-LM writes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor


class ColumnColumn(nn.Module):
    """Both layers split by columns: hidden shards are gathered forward, their gradients reduce-scattered backward."""

    def __init__(self, whole: nn.Sequential, rank: int, size: int) -> None:
        super().__init__()
        self.up, self.activation, self.down = whole
        _cut_rows(self.up, rank, size)
        _cut_rows(self.down, rank, size)

    def forward(self, x: Tensor) -> Tensor:
        h = self.activation(F.linear(x, self.up.weight, self.up.bias))
        h = GatherReduceScatter.apply(h)
        return GatherSplit.apply(F.linear(h, self.down.weight, self.down.bias))


class ColumnRow(nn.Module):
    """The first layer split by columns, the second by rows: one all-reduce forward; the batch needs no gradient."""

    def __init__(self, whole: nn.Sequential, rank: int, size: int) -> None:
        super().__init__()
        self.up, self.activation, self.down = whole
        _cut_rows(self.up, rank, size)
        self.down.weight = nn.Parameter(self.down.weight.detach().chunk(size, 1)[rank].clone())

    def forward(self, x: Tensor) -> Tensor:
        h = self.activation(F.linear(x, self.up.weight, self.up.bias))
        return Reduce.apply(F.linear(h, self.down.weight)) + self.down.bias


class Reduce(torch.autograd.Function):
    """All-reduce forward, identity backward."""

    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        x = x.contiguous()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(_ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class GatherSplit(torch.autograd.Function):
    """All-gather forward, own shard backward, along the last dim."""

    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        return _gather_along_last_dim(x)

    @staticmethod
    def backward(_ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.chunk(dist.get_world_size(), -1)[dist.get_rank()].contiguous()


class GatherReduceScatter(torch.autograd.Function):
    """All-gather forward, reduce-scatter backward, along the last dim."""

    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        return _gather_along_last_dim(x)

    @staticmethod
    def backward(_ctx: Any, gradient: Tensor) -> Tensor:
        size = dist.get_world_size()
        parts = torch.cat(gradient.chunk(size, -1))
        total = gradient.new_empty(parts.shape[0] // size, parts.shape[1])
        dist.reduce_scatter_tensor(total, parts)
        return total


def _gather_along_last_dim(x: Tensor) -> Tensor:
    size = dist.get_world_size()
    parts = x.new_empty(x.shape[0] * size, x.shape[1])
    dist.all_gather_into_tensor(parts, x.contiguous())
    return torch.cat(parts.chunk(size), -1)


def _cut_rows(linear: nn.Linear, rank: int, size: int) -> None:
    linear.weight = nn.Parameter(linear.weight.detach().chunk(size)[rank].clone())
    linear.bias = nn.Parameter(linear.bias.detach().chunk(size)[rank].clone())
