"""A small decoder in the usual layout, and plans for it; where a spawned process finds them."""

from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from tests.parallel.training import Recipe
from torch import nn
from torch.distributed.tensor import Partial, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    PrepareModuleInputOutput,
    RowwiseParallel,
    SequenceParallel,
)

from shardproof.parallel import Column, GradientAllReduce, Row, SharedInput, VocabularyLoss, VocabularyRows, parallelize

V, H, D, W = 11, 8, 4, 10
IGNORED = -100


class Attention(nn.Module):
    """Counts its heads in what its projections give, as transformers' attention does."""

    def __init__(self, heads, kv_heads):
        super().__init__()
        self.head_dim, self.num_key_value_groups = D, heads // kv_heads
        self.wq, self.wo = nn.Linear(H, heads * D, bias=False), nn.Linear(heads * D, H)
        # No bias of keys: it adds the same to all scores of a query, and its gradient is zero.
        self.wk, self.wv = nn.Linear(H, kv_heads * D, bias=False), nn.Linear(H, kv_heads * D)
        self.q_norm = nn.RMSNorm(D)

    def forward(self, x):
        q, k, v = (w(x).unflatten(-1, (-1, D)).transpose(1, 2) for w in (self.wq, self.wk, self.wv))
        k, v = (part.repeat_interleave(self.num_key_value_groups, dim=1) for part in (k, v))
        mixed = F.scaled_dot_product_attention(self.q_norm(q), k, v, is_causal=True)
        return self.wo(mixed.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    def __init__(self):
        super().__init__()
        self.w1, self.w2, self.w3 = nn.Linear(H, W), nn.Linear(W, H), nn.Linear(H, W)

    def forward(self, x):
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class Block(nn.Module):
    def __init__(self, heads, kv_heads):
        super().__init__()
        self.attention_norm, self.attention = nn.RMSNorm(H), Attention(heads, kv_heads)
        self.ffn_norm, self.feed_forward = nn.LayerNorm(H), FeedForward()

    def forward(self, x):
        x = x + self.attention(self.attention_norm(x))
        return x + self.feed_forward(self.ffn_norm(x))


class Decoder(nn.Module):
    """Ids [B, S] and targets [B S] to a loss."""

    def __init__(self, heads=4, kv_heads=2, *, tied=False, layers=1):
        super().__init__()
        self.embedding = nn.Embedding(V, H)
        self.layers = nn.ModuleList(Block(heads, kv_heads) for _ in range(layers))
        self.norm, self.head = nn.RMSNorm(H), nn.Linear(H, V, bias=False)
        self.loss = nn.CrossEntropyLoss(label_smoothing=0.1)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, ids, targets):
        x = self.embedding(ids)
        for layer in self.layers:
            x = layer(x)
        return self.loss(self.head(self.norm(x)).flatten(0, 1), targets)


def make_batch(length=6):
    ids = torch.arange(2 * length).remainder(V).view(2, length)
    return ids, ids.flip(0).flatten().masked_fill(torch.arange(2 * length).remainder(5) == 1, IGNORED)


def forward(model, batch):
    return model(*batch)


ATTENTION, MLP = "layers.*.attention", "layers.*.feed_forward"

STRINGS = {
    "embedding": "embedding_rowwise",
    f"{ATTENTION}.w[qkv]": "colwise",
    f"{ATTENTION}.wo": "rowwise",
    f"{ATTENTION}.q_norm": "replicated_with_grad_allreduce",
    f"{MLP}.w1": "colwise",
    f"{MLP}.w3": "colwise",
    f"{MLP}.w2": "rowwise",
    "head": "colwise_gather_output",
}

# The plan of PyTorch's tutorial on sequence parallelism.
TORCH = {
    "embedding": RowwiseParallel(input_layouts=Replicate(), output_layouts=Shard(1)),
    "layers.*.attention_norm": SequenceParallel(),
    ATTENTION: PrepareModuleInput(input_layouts=(Shard(1),), desired_input_layouts=(Replicate(),)),
    f"{ATTENTION}.w[qkv]": ColwiseParallel(),
    f"{ATTENTION}.q_norm": SequenceParallel(sequence_dim=2),
    f"{ATTENTION}.wo": RowwiseParallel(output_layouts=Shard(1)),
    "layers.*.ffn_norm": SequenceParallel(),
    MLP: PrepareModuleInputOutput(
        input_layouts=(Shard(1),),
        desired_input_layouts=(Replicate(),),
        output_layouts=(Partial(),),
        desired_output_layouts=(Partial(),),
    ),
    f"{MLP}.w1": ColwiseParallel(),
    f"{MLP}.w3": ColwiseParallel(),
    f"{MLP}.w2": RowwiseParallel(output_layouts=Shard(1)),
    "norm": SequenceParallel(),
    "head": ColwiseParallel(input_layouts=Shard(1), output_layouts=Replicate()),
}

# As few collectives as can be: one entry for all projections, and the loss of split logits.
OURS = {
    "embedding": VocabularyRows(output=Shard(1)),
    "layers.*.*_norm": GradientAllReduce(),
    ATTENTION: SharedInput(source=Shard(1)),
    f"{ATTENTION}.w[qkv]": Column(input_shared=True),
    f"{ATTENTION}.q_norm": GradientAllReduce(),
    f"{ATTENTION}.wo": Row(output=Shard(1)),
    MLP: SharedInput(source=Shard(1)),
    f"{MLP}.w[13]": Column(input_shared=True),
    f"{MLP}.w2": Row(output=Shard(1)),
    "norm": GradientAllReduce(),
    "head": Column(input=Shard(1)),
    "loss": VocabularyLoss(vocabulary=V),
}
PLANS = {"strings": STRINGS, "torch": TORCH, "ours": OURS}


@dataclass(frozen=True)
class SharedHeads:
    """Builds a decoder with half as many KV heads as four ranks."""

    def __call__(self):
        return Decoder(4, 2, tied=True)


@dataclass(frozen=True)
class ByPlan:
    """`parallelize(model, mesh)` by one of the plans."""

    plan: str

    def __call__(self, model, mesh):
        return parallelize(model, mesh, PLANS[self.plan])


@dataclass(frozen=True)
class ByPlanBesideData(ByPlan):
    """And the gradients averaged over the data axis."""

    def __call__(self, model, mesh):
        group = mesh.get_group("dp")

        def average(gradient):
            gradient = gradient.clone()
            dist.all_reduce(gradient, group=group)
            return gradient / group.size()

        model = super().__call__(model, mesh)
        for parameter in model.parameters():
            parameter.register_hook(average)
        return model


def recipe(plan="strings"):
    """KV heads are fewer than four ranks; the vocabulary of 11 is uneven; head and embedding are tied."""
    return Recipe(make=SharedHeads(), parallelize=ByPlan(plan=plan), batch=make_batch(8))
