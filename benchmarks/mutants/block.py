"""The model on one device: a transformer with grouped-query attention, rope, a gated MLP and a tied head.

Sequence first inside, [S, B, h], as Megatron has it. Biases on every linear layer, norms over heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable

IGNORED = -100
EPSILON = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Of the model and its batch; none needs to divide by another, but heads by kv_heads."""

    vocabulary: int = 13
    hidden: int = 8
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 4
    intermediate: int = 10
    layers: int = 1
    batch: int = 2
    sequence: int = 8
    tied: bool = True
    smoothing: float = 0.1
    dropout: float = 0.0


class Embedding(nn.Module):
    """Token ids [B, S] to rows [S, B, h]."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(sizes.vocabulary, sizes.hidden))

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.weight).transpose(0, 1)


class Norm(nn.Module):
    """Root mean square over the last dim."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPSILON) * self.weight


class Linear(nn.Module):
    """x W^T + b; initialised by whoever builds the model."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.empty(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class Attention(nn.Module):
    """Causal; the fused projection holds all queries, then all keys, then all values."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        D = sizes.head_dim
        self.heads, self.kv_heads, self.head_dim = sizes.heads, sizes.kv_heads, D
        self.positions: Callable[[int], Tensor] = torch.arange
        self.qkv = Linear(sizes.hidden, (sizes.heads + 2 * sizes.kv_heads) * D)
        self.q_norm, self.k_norm = Norm(D), Norm(D)
        self.out = Linear(sizes.heads * D, sizes.hidden)

    def forward(self, x: Tensor) -> Tensor:
        H, K, D = self.heads, self.kv_heads, self.head_dim
        cos, sin = rope(self.positions(x.shape[0]), D)
        q, k, v = self.qkv(x).unflatten(-1, (H + 2 * K, D)).split([H, K, K], dim=2)  # [S, B, heads, D]
        q, k = rotate(self.q_norm(q), cos, sin), rotate(self.k_norm(k), cos, sin)
        q, k, v = (t.permute(1, 2, 0, 3) for t in (q, k, v))  # [B, heads, S, D]
        k, v = (t.repeat_interleave(H // K, dim=1) for t in (k, v))
        later = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool).triu(1)
        scores = (q @ k.mT * D**-0.5).masked_fill(later, float("-inf"))
        mixed = scores.softmax(-1) @ v
        return self.out(mixed.permute(2, 0, 1, 3).flatten(2))


class MLP(nn.Module):
    """down(silu(gate) * up); the fused projection holds all of gate, then all of up."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.gate_up = Linear(sizes.hidden, 2 * sizes.intermediate)
        self.down = Linear(sizes.intermediate, sizes.hidden)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


class Layer(nn.Module):
    """Attention and MLP, each behind a norm and beside a residual."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.attention_norm, self.attention = Norm(sizes.hidden), Attention(sizes)
        self.mlp_norm, self.mlp = Norm(sizes.hidden), MLP(sizes)
        self.probability, self.drop = sizes.dropout, F.dropout

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._dropped(self.attention(self.attention_norm(x)))
        return x + self._dropped(self.mlp(self.mlp_norm(x)))

    def _dropped(self, x: Tensor) -> Tensor:
        return self.drop(x, self.probability) if self.probability else x


class Head(nn.Module):
    """Hidden [S, B, h] to logits [B, S, V]."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(sizes.vocabulary, sizes.hidden))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.transpose(0, 1), self.weight)


class TokenLoss(nn.Module):
    """Cross-entropy with label smoothing, averaged over the tokens that are not ignored."""

    def __init__(self, smoothing: float) -> None:
        super().__init__()
        self.smoothing = smoothing

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, label_smoothing=self.smoothing
        )


class Transformer(nn.Module):
    """Ids and targets, both [B, S], to the loss."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.embedding = Embedding(sizes)
        self.layers = nn.ModuleList(Layer(sizes) for _ in range(sizes.layers))
        self.norm = Norm(sizes.hidden)
        self.head = Head(sizes)
        self.loss = TokenLoss(sizes.smoothing)
        if sizes.tied:
            self.head.weight = self.embedding.weight
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.5)

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        x = self.embedding(ids)
        for layer in self.layers:
            x = layer(x)
        return self.loss(self.head(self.norm(x)), targets)


def make_batch(sizes: Sizes) -> tuple[Tensor, Tensor]:
    """Ids that hit every row of the vocabulary where they suffice; targets of which sequence b ignores b + 1."""
    generator = torch.Generator().manual_seed(1)
    count = sizes.batch * sizes.sequence
    ids = torch.randperm(count, generator=generator).remainder(sizes.vocabulary).view(sizes.batch, sizes.sequence)
    targets = torch.randperm(count, generator=generator).remainder(sizes.vocabulary).view_as(ids)
    for row in range(sizes.batch):
        targets[row, : min(row + 1, sizes.sequence - 1)] = IGNORED
    return ids, targets


def rope(positions: Tensor, head_dim: int) -> tuple[Tensor, Tensor]:
    """Tables of cos and sin, each [S, 1, 1, head_dim / 2]."""
    frequencies = 0.1 ** (torch.arange(head_dim // 2) / (head_dim // 2))
    angles = (positions[:, None].double() * frequencies)[:, None, None, :]
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (x_i, x_(i + head_dim / 2)) by the angles of the tables."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).to(x.dtype)
