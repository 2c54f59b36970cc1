"""A decoder with the choices that published ones differ in, on one device. Batch first: x is [B, S, h].

Names are those that the plans in `gpt_plans.py` know: embedding, blocks.N.attention.wq, and so on.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from shardproof.proving.step import Step

if TYPE_CHECKING:
    from collections.abc import Callable

IGNORED = -100


@dataclass(frozen=True, slots=True, kw_only=True)
class GPTSizes:
    """Of the model and its batch.

    Attributes:
        kv_heads: fewer than heads for grouped queries; 0 for as many.
        norm: of every layer.
        mlp: two layers around gelu, relu or squared relu; or three, gated by silu.
        positions: learned rows, rotation, ALiBi's slopes, or none.
        side_by_side: attention and MLP of one norm, added together (GPT-J).
        head_norms: queries and keys are normed (Qwen3).
        cap: of the logits, by tanh (Gemma 2); 0 for none.
        recompute: blocks are computed again in the backward.
        last_cast: the logits end in `.float()`.
    """

    vocabulary: int = 16
    hidden: int = 16
    heads: int = 4
    kv_heads: int = 0
    layers: int = 1
    width: int = 0
    rows: int = 2
    sequence: int = 8
    norm: Literal["LayerNorm", "RMSNorm"] = "LayerNorm"
    mlp: Literal["gelu", "relu", "squared relu", "gated"] = "gelu"
    positions: Literal["learned", "rope", "alibi", "none"] = "learned"
    bias: bool = True
    tied: bool = False
    side_by_side: bool = False
    head_norms: bool = False
    cap: float = 0.0
    recompute: Literal["", "reentrant", "non-reentrant"] = ""
    dropout: float = 0.0
    last_cast: bool = False
    dtype: torch.dtype = torch.float32


class Attention(nn.Module):
    """Causal; as many heads as its projections have outputs for, the first of them being number `first_head`."""

    def __init__(self, sizes: GPTSizes) -> None:
        super().__init__()
        self.sizes, self.width, self.first_head = sizes, sizes.hidden // sizes.heads, 0
        self.repeated = sizes.heads // (sizes.kv_heads or sizes.heads)
        linear = partial(nn.Linear, bias=sizes.bias)
        h, kv = sizes.hidden, (sizes.kv_heads or sizes.heads) * self.width
        self.wq, self.wk, self.wv, self.wo = linear(h, h), linear(h, kv, bias=False), linear(h, kv), linear(h, h)
        if sizes.head_norms:
            self.q_norm, self.k_norm = nn.RMSNorm(self.width), nn.RMSNorm(self.width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (w(x).unflatten(-1, (-1, self.width)).transpose(1, 2) for w in (self.wq, self.wk, self.wv))
        if self.sizes.head_norms:
            q, k = self.q_norm(q), self.k_norm(k)
        if self.sizes.positions == "rope":
            q, k = rotated(q), rotated(k)
        k, v = (t.repeat_interleave(self.repeated, 1) if self.repeated > 1 else t for t in (k, v))
        if self.sizes.positions != "alibi":
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=self.alibi(q))
        return self.wo(mixed.transpose(1, 2).flatten(2))

    def alibi(self, q: Tensor) -> Tensor:
        """Distances times the slope of each head that is here, -inf for later tokens: [heads, S, S]."""
        own = torch.arange(q.shape[1]) + self.first_head
        slopes = 2.0 ** (-8.0 * (own + 1) / self.sizes.heads)
        places = torch.arange(q.shape[2])
        bias = slopes[:, None, None] * (places - places[:, None]).clamp(max=0)
        return bias.masked_fill(places > places[:, None], float("-inf")).to(q.dtype)


def rotated(x: Tensor) -> Tensor:
    """Pairs (x_i, x_(i + D / 2)) turned by the token's position; x is [B, heads, S, D]."""
    half = x.shape[-1] // 2
    angles = torch.arange(x.shape[2])[:, None] * 0.1 ** (torch.arange(half) / half)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class Block(nn.Module):
    """Attention and MLP, each behind a norm and beside a residual."""

    def __init__(self, sizes: GPTSizes) -> None:
        super().__init__()
        norm = {"LayerNorm": nn.LayerNorm, "RMSNorm": nn.RMSNorm}[sizes.norm]
        self.sizes = sizes
        width = sizes.width or 2 * sizes.hidden
        self.attention_norm, self.attention = norm(sizes.hidden), Attention(sizes)
        if not sizes.side_by_side:
            self.mlp_norm = norm(sizes.hidden)
        self.up, self.down = (
            nn.Linear(sizes.hidden, width, bias=sizes.bias),
            nn.Linear(width, sizes.hidden, bias=sizes.bias),
        )
        if sizes.mlp == "gated":
            self.gate = nn.Linear(sizes.hidden, width, bias=sizes.bias)
        self.drop = nn.Dropout(sizes.dropout)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.attention_norm(x)
        if self.sizes.side_by_side:
            return x + self.drop(self.attention(normed)) + self.drop(self.mlp(normed))
        x = x + self.drop(self.attention(normed))
        return x + self.drop(self.mlp(self.mlp_norm(x)))

    def mlp(self, x: Tensor) -> Tensor:
        h = self.up(x)
        if self.sizes.mlp == "gated":
            return self.down(F.silu(self.gate(x)) * h)
        activation: Callable[[Tensor], Tensor] = {
            "gelu": F.gelu,
            "relu": F.relu,
            "squared relu": lambda x: F.relu(x).square(),
        }[self.sizes.mlp]
        return self.down(activation(h))


class GPT(nn.Module):
    """Ids [B, S] to logits [B, S, V]."""

    def __init__(self, sizes: GPTSizes) -> None:
        super().__init__()
        self.sizes, self.tied = sizes, sizes.tied
        self.embedding = nn.Embedding(sizes.vocabulary, sizes.hidden)
        if sizes.positions == "learned":
            self.position = nn.Embedding(sizes.sequence, sizes.hidden)
        self.blocks = nn.ModuleList(Block(sizes) for _ in range(sizes.layers))
        self.norm = {"LayerNorm": nn.LayerNorm, "RMSNorm": nn.RMSNorm}[sizes.norm](sizes.hidden)
        self.head = nn.Linear(sizes.hidden, sizes.vocabulary, bias=False)
        if sizes.tied:
            self.head.weight = self.embedding.weight
        self.loss = nn.CrossEntropyLoss(ignore_index=IGNORED)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        if self.sizes.positions == "learned":
            x = x + self.position(torch.arange(ids.shape[1]))
        for block in self.blocks:
            if self.sizes.recompute:
                x = checkpoint(block, x, use_reentrant=self.sizes.recompute == "reentrant")
            else:
                x = block(x)
        logits = self.head(self.norm(x))
        if self.sizes.cap:
            logits = self.sizes.cap * torch.tanh(logits / self.sizes.cap)
        return logits.float() if self.sizes.last_cast else logits


def language_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """By the model's own loss module, which a plan may split over the vocabulary."""
    ids, targets = batch
    return model.loss(model(ids).flatten(0, 1), targets.flatten())


def make_ids(sizes: GPTSizes) -> tuple[Tensor, Tensor]:
    """Ids that hit every row of the vocabulary where there are as many; each row ignores one target."""
    generator = torch.Generator().manual_seed(0)
    count = sizes.rows * sizes.sequence
    ids, targets = (
        torch.randperm(max(count, sizes.vocabulary), generator=generator)[:count]
        .remainder(sizes.vocabulary)
        .view(sizes.rows, sizes.sequence)
        for _ in range(2)
    )
    targets[:, 0] = IGNORED
    return ids, targets


def gpt_step(sizes: GPTSizes, **settings: Any) -> Step:
    """Two steps on the decoder, or as the settings say."""

    def build() -> nn.Module:
        return GPT(sizes).to(sizes.dtype)

    return Step(model=build, batch=make_ids(sizes), forward=language_loss, **({"steps": 2} | settings))
