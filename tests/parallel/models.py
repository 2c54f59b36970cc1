"""A small decoder in the usual layout, for plans to be applied to."""

import torch
import torch.nn.functional as F
from torch import nn

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
