"""The decoder of `gpt.py` sharded as Megatron-LM does it: rank and group are module globals, layers ask them.

`initialize` is called once a process, by the sharding, as `initialize_model_parallel` is; the collectives are
autograd Functions, named as in Megatron.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.mutants.models.gpt import IGNORED

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

_GROUP: dist.ProcessGroup | None = None
_RANK: int | None = None
_SIZE: int | None = None


def initialize(mesh: DeviceMesh) -> None:
    """Set this process's place among the tensor-parallel ranks."""
    global _GROUP, _RANK, _SIZE
    _GROUP, _RANK, _SIZE = mesh.get_group(), mesh.get_local_rank(), mesh.size()


def rank() -> int:
    assert _RANK is not None, "initialize was not called"
    return _RANK


def size() -> int:
    assert _SIZE is not None, "initialize was not called"
    return _SIZE


def _all_reduce(x: Tensor, op: Any = dist.ReduceOp.SUM) -> Tensor:
    x = x.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(x, op, group=_GROUP)
    return x


def _split(x: Tensor, dim: int) -> Tensor:
    return x.chunk(size(), dim)[rank()].contiguous()


def _gather(x: Tensor, dim: int) -> Tensor:
    parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(size())]
    dist.all_gather(parts, x.detach().contiguous(), group=_GROUP)
    return torch.cat(parts, dim)


class CopyToRegion(torch.autograd.Function):
    """Identity forward, all-reduce backward."""

    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(_ctx: Any, grad: Tensor) -> Tensor:
        return _all_reduce(grad)


class ReduceFromRegion(torch.autograd.Function):
    """All-reduce forward, identity backward."""

    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        return _all_reduce(x)

    @staticmethod
    def backward(_ctx: Any, grad: Tensor) -> Tensor:
        return grad


class GatherFromSequence(torch.autograd.Function):
    """All-gather along the sequence forward, reduce-scatter backward (by an all-reduce)."""

    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        return _gather(x, 1)

    @staticmethod
    def backward(_ctx: Any, grad: Tensor) -> Tensor:
        return _split(_all_reduce(grad), 1)


class ScatterToSequence(torch.autograd.Function):
    """Reduce-scatter along the sequence forward (by an all-reduce), all-gather backward."""

    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        return _split(_all_reduce(x), 1)

    @staticmethod
    def backward(_ctx: Any, grad: Tensor) -> Tensor:
        return _gather(grad, 1)


class ColumnParallelLinear(nn.Module):
    """This rank's outputs of a linear layer."""

    def __init__(self, whole: nn.Linear, enter: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(_split(whole.weight.detach(), 0))
        self.bias = None if whole.bias is None else nn.Parameter(_split(whole.bias.detach(), 0))
        self.enter = enter

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.enter(x), self.weight, self.bias)


class RowParallelLinear(nn.Module):
    """This rank's inputs of a linear layer; the bias is added once, after the reduction."""

    def __init__(self, whole: nn.Linear, leave: Any, *, sequence: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(_split(whole.weight.detach(), 1))
        self.bias = None if whole.bias is None else nn.Parameter(whole.bias.detach().clone())
        self.leave, self.sequence = leave, sequence

    def forward(self, x: Tensor) -> Tensor:
        y = self.leave(F.linear(x, self.weight))
        if self.bias is None:
            return y
        return y + (CopyToRegion.apply(self.bias) if self.sequence else self.bias)


class VocabularyParallelEmbedding(nn.Module):
    """This rank's rows."""

    def __init__(self, whole: nn.Embedding, leave: Any) -> None:
        super().__init__()
        self.weight, self.leave = nn.Parameter(_split(whole.weight.detach(), 0)), leave

    def forward(self, ids: Tensor) -> Tensor:
        start = rank() * len(self.weight)
        outside = (ids < start) | (ids >= start + len(self.weight))
        rows = F.embedding((ids - start).masked_fill(outside, 0), self.weight)
        return self.leave(rows.masked_fill(outside[..., None], 0.0))


class VocabularyParallelCrossEntropy(nn.Module):
    """The mean over tokens that are not ignored, of logits [N, V / ranks]."""

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        shifted = logits - _all_reduce(logits.amax(-1, keepdim=True), dist.ReduceOp.MAX)
        start = rank() * logits.shape[-1]
        outside = (targets < start) | (targets >= start + logits.shape[-1])
        picked = shifted.gather(-1, (targets - start).masked_fill(outside, 0)[:, None])[:, 0]
        target = ReduceFromRegion.apply(picked.masked_fill(outside, 0.0))
        losses = ReduceFromRegion.apply(shifted.exp().sum(-1)).log() - target
        valid = targets != IGNORED
        return losses.masked_fill(~valid, 0.0).sum() / valid.sum()


class SequenceParallelNorm(nn.Module):
    """A norm of tokens of which each rank has its own: the weight's gradient is summed."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.weight = nn.Parameter(norm.weight.detach().clone())
        self.bias = nn.Parameter(norm.bias.detach().clone()) if isinstance(norm, nn.LayerNorm) else None
        self.eps = getattr(norm, "eps", None)

    def forward(self, x: Tensor) -> Tensor:
        weight = CopyToRegion.apply(self.weight)
        if self.bias is None:
            return F.rms_norm(x, weight.shape, weight, self.eps)
        return F.layer_norm(x, weight.shape, weight, CopyToRegion.apply(self.bias), self.eps)


def megatron(model: nn.Module, mesh: DeviceMesh, *, sequence: bool = False) -> nn.Module:
    """Column, row and vocabulary parallel; the head gets what it needs from the group in the module's globals."""
    initialize(mesh["tp"])
    enter = GatherFromSequence.apply if sequence else CopyToRegion.apply
    leave = ScatterToSequence.apply if sequence else ReduceFromRegion.apply
    tied = model.tied
    model.embedding = VocabularyParallelEmbedding(model.embedding, leave)
    if hasattr(model, "position") and sequence:
        model.position = SequencePosition(model.position)
    for block in model.blocks:
        attention = block.attention
        for name in ("wq", "wk", "wv"):
            setattr(attention, name, ColumnParallelLinear(getattr(attention, name), enter))
        attention.first_head = rank() * model.sizes.heads // size()
        attention.wo = RowParallelLinear(attention.wo, leave, sequence=sequence)
        for name in ("up", "gate"):
            if hasattr(block, name):
                setattr(block, name, ColumnParallelLinear(getattr(block, name), enter))
        block.down = RowParallelLinear(block.down, leave, sequence=sequence)
        if sequence:
            block.attention_norm = SequenceParallelNorm(block.attention_norm)
            block.mlp_norm = SequenceParallelNorm(block.mlp_norm)
    if sequence:
        model.norm = SequenceParallelNorm(model.norm)
    model.head = ColumnParallelLinear(model.head, enter)
    if tied:
        model.head.weight = model.embedding.weight
    model.loss = VocabularyParallelCrossEntropy()
    return model


def megatron_sequence(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """The same, with sequence parallelism."""
    return megatron(model, mesh, sequence=True)


class SequencePosition(nn.Module):
    """Rows of this rank's tokens; the table's gradient is summed."""

    def __init__(self, whole: nn.Embedding) -> None:
        super().__init__()
        self.weight = nn.Parameter(whole.weight.detach().clone())

    def forward(self, places: Tensor) -> Tensor:
        return F.embedding(_split(places, 0), CopyToRegion.apply(self.weight))
