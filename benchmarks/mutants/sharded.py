"""The same model on one rank of N, Megatron style: column, row and vocabulary parallel, sequence parallel if asked.

Parameters are plain tensors, each rank's own part, under the names of the model on one device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.mutants.block import EPSILON, IGNORED, Transformer
from benchmarks.mutants.collectives import Reduce, gathered
from benchmarks.mutants.lines import Lines, Place, unchanged

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.distributed.device_mesh import DeviceMesh

    from benchmarks.mutants.block import Sizes


def shard(lines: Lines, *, sequence_parallel: bool = False) -> Callable[[nn.Module, DeviceMesh], nn.Module]:
    """A `parallelize(model, mesh)` of the transformer made of these lines."""

    def parallelize(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
        assert isinstance(model, Transformer)
        place = Place(rank=mesh.get_local_rank(), size=mesh.size())
        return shard_transformer(model, place, lines, sequence_parallel=sequence_parallel)

    return parallelize


def shard_transformer(model: Transformer, place: Place, lines: Lines, *, sequence_parallel: bool) -> Transformer:
    """Put sharded modules in the place of the model's own."""
    sizes = model.sizes
    enter = lines.gather_sequence if sequence_parallel else lines.column_input
    leave = lines.scatter_sequence if sequence_parallel else lines.row_output
    bias = lines.sequence_bias if sequence_parallel else unchanged
    norm_weight = lines.sequence_norm_weight if sequence_parallel else unchanged
    own = lines.own_rows(sizes.vocabulary, place)
    whole = model.embedding.weight.detach()
    head = whole if sizes.tied else model.head.weight.detach()
    model.embedding = VocabularyEmbedding(whole[own], own, lines, leave)
    for layer in model.layers:
        attention, mlp = layer.attention, layer.mlp
        local = len(range(sizes.heads)[lines.own_rows(sizes.heads, place)])
        attention.heads, attention.kv_heads = local, max(1, sizes.kv_heads // place.size)
        if sequence_parallel:
            attention.positions = lambda length: gathered(lines.positions(length, place))
        replicas = max(1, place.size // sizes.kv_heads)
        cut = [lines.cut_qkv(t.detach(), sizes, place) for t in (attention.qkv.weight, attention.qkv.bias)]
        attention.qkv = ColumnQKV(*cut, enter, local * sizes.head_dim, replicas, lines)
        attention.q_norm = ParallelNorm(attention.q_norm.weight, lines.head_norm_weight)
        attention.k_norm = ParallelNorm(attention.k_norm.weight, lines.head_norm_weight)
        width = lines.own_columns(sizes.heads, place)
        columns = slice(width.start * sizes.head_dim, width.stop * sizes.head_dim)
        attention.out = Row(attention.out, columns, lines, leave, bias)
        gate_up = [lines.cut_gate_up(t.detach(), place) for t in (mlp.gate_up.weight, mlp.gate_up.bias)]
        mlp.gate_up = Column(*gate_up, enter)
        mlp.down = Row(mlp.down, lines.own_columns(sizes.intermediate, place), lines, leave, bias)
        layer.attention_norm = ParallelNorm(layer.attention_norm.weight, norm_weight)
        layer.mlp_norm = ParallelNorm(layer.mlp_norm.weight, norm_weight)
        if sequence_parallel:
            layer.drop = lines.sequence_dropout(place)
    model.norm = ParallelNorm(model.norm.weight, norm_weight)
    model.head = VocabularyHead(head[own], lines.gather_sequence if sequence_parallel else lines.head_input, lines)
    if sizes.tied:
        model.head.weight = model.embedding.weight
    model.loss = VocabularyLoss(sizes, own, lines)
    return model


class VocabularyEmbedding(nn.Module):
    """This rank's rows; ids [B, S] to [S, B, h], or to this rank's part of S."""

    def __init__(self, rows: Tensor, own: slice, lines: Lines, leave: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.weight, self.own, self.lines, self.leave = nn.Parameter(rows.clone()), own, lines, leave

    def forward(self, ids: Tensor) -> Tensor:
        return self.leave(self.lines.embed(ids, self.weight, self.own).transpose(0, 1))


class ParallelNorm(nn.Module):
    """A norm whose weight all ranks hold alike while each sees a part of what it is applied to."""

    def __init__(self, weight: Tensor, of_weight: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.weight, self.of_weight = nn.Parameter(weight.detach().clone()), of_weight

    def forward(self, x: Tensor) -> Tensor:
        scale = (x.square().mean(-1, keepdim=True) + EPSILON).rsqrt()
        return x * scale * self.of_weight(self.weight)


class Column(nn.Module):
    """This rank's outputs of a linear layer."""

    def __init__(self, weight: Tensor, bias: Tensor, enter: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.weight, self.bias, self.enter = nn.Parameter(weight.clone()), nn.Parameter(bias.clone()), enter

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.enter(x), self.weight, self.bias)


class ColumnQKV(nn.Module):
    """This rank's heads; KV heads that several ranks hold get the sum of their gradients."""

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor,
        enter: Callable[[Tensor], Tensor],
        queries: int,
        replicas: int,
        lines: Lines,
    ) -> None:
        super().__init__()
        self.weight, self.bias, self.enter = nn.Parameter(weight.clone()), nn.Parameter(bias.clone()), enter
        self.queries, self.replicas, self.lines = queries, replicas, lines

    def forward(self, x: Tensor) -> Tensor:
        x, at = self.enter(x), self.queries
        kv_weight, kv_bias = self.weight[at:], self.bias[at:]
        if self.replicas > 1:
            kv_weight = self.lines.replica_weight(kv_weight, self.replicas)
            kv_bias = self.lines.replica_weight(kv_bias, self.replicas)
        q, kv = F.linear(x, self.weight[:at], self.bias[:at]), F.linear(x, kv_weight, kv_bias)
        return torch.cat([q, kv], dim=-1)


class Row(nn.Module):
    """This rank's inputs of a linear layer; the outputs are summed over ranks."""

    def __init__(
        self,
        whole: nn.Module,
        own: slice,
        lines: Lines,
        leave: Callable[[Tensor], Tensor],
        of_bias: Callable[[Tensor], Tensor],
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(whole.weight.detach()[:, own].clone())
        self.bias = nn.Parameter(whole.bias.detach().clone())
        self.lines, self.leave, self.of_bias = lines, leave, of_bias

    def forward(self, x: Tensor) -> Tensor:
        return self.lines.row_linear(x, self.weight, self.of_bias(self.bias), self.leave)


class VocabularyHead(nn.Module):
    """Logits of this rank's part of the vocabulary, [B, S, V / N]."""

    def __init__(self, rows: Tensor, enter: Callable[[Tensor], Tensor], lines: Lines) -> None:
        super().__init__()
        self.weight, self.enter, self.lines = nn.Parameter(rows.clone()), enter, lines

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.enter(x).transpose(0, 1), self.lines.head_weight(self.weight))


class VocabularyLoss(nn.Module):
    """Cross-entropy of logits of which each rank has its part of the vocabulary."""

    def __init__(self, sizes: Sizes, own: slice, lines: Lines) -> None:
        super().__init__()
        self.sizes, self.own, self.lines = sizes, own, lines

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        shifted = logits - self.lines.largest(logits)
        log_sum = self.lines.exponentials(shifted).log()
        inside = (targets >= self.own.start) & (targets < self.own.stop)
        places = (targets - self.own.start).clamp(0, logits.shape[-1] - 1)
        picked = Reduce.apply(shifted.gather(-1, places[..., None])[..., 0].masked_fill(~inside, 0.0))
        mean = self.lines.smoothing_mean(shifted, self.sizes.vocabulary)
        smoothing = self.sizes.smoothing
        losses = log_sum - (1 - smoothing) * picked - smoothing * mean
        valid = targets != IGNORED
        return losses.masked_fill(~valid, 0.0).sum() / valid.sum()
