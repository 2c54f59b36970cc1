"""A GPT of one's own, split by a plan over devices.

shardproof prove examples/prove_gpt.py:step --parallelize examples/prove_gpt.py:parallelize --devices 2

To prove your own, put your model, loss and optimizer into the `Step`, and your sharding into `parallelize`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.tensor import Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import shardproof as sp

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

HIDDEN, HEADS, LAYERS, VOCABULARY, LENGTH = 32, 4, 2, 64, 12


class Attention(nn.Module):
    """Causal; as many heads as the shard of its projections has."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.output = (nn.Linear(HIDDEN, HIDDEN) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            project(x).unflatten(-1, (-1, HIDDEN // HEADS)).transpose(1, 2)  # (batch, heads, length, HIDDEN / HEADS)
            for project in (self.query, self.key, self.value)
        )
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.output(attended.transpose(1, 2).flatten(-2))


class Block(nn.Module):
    """Attention and an MLP, each behind a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.attention_norm, self.attention = nn.LayerNorm(HIDDEN), Attention()
        self.mlp_norm, self.up, self.down = nn.LayerNorm(HIDDEN), nn.Linear(HIDDEN, 128), nn.Linear(128, HIDDEN)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        return x + self.down(F.gelu(self.up(self.mlp_norm(x))))


class GPT(nn.Module):
    """Token ids, (batch, length), to logits, (batch, length, VOCABULARY)."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(VOCABULARY, HIDDEN), nn.Embedding(LENGTH, HIDDEN)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm, self.head = nn.LayerNorm(HIDDEN), nn.Linear(HIDDEN, VOCABULARY, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.positions.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def parallelize(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Megatron's split: each block's first matrices by columns, its second ones by rows, the head by columns."""
    plan = {"head": ColwiseParallel(output_layouts=Replicate())}
    for name in ("attention.query", "attention.key", "attention.value", "up"):
        plan[f"blocks.*.{name}"] = ColwiseParallel()
    for name in ("attention.output", "down"):
        plan[f"blocks.*.{name}"] = RowwiseParallel()
    return parallelize_module(model, mesh, plan)


def loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over all positions."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


ids = torch.randint(VOCABULARY, (4, LENGTH + 1), generator=torch.Generator().manual_seed(0))
step = sp.Step(
    model=GPT,
    batch=(ids[:, :-1], ids[:, 1:]),
    loss=loss,
    optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-3),
    clip_norm=1.0,
)
