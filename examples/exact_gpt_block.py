"""A GPT block on a tiny vocabulary: attention written out against PyTorch's fused one.

The bug is in the fused one's mask: every token sees itself and all that follow, instead of all before it.
"""

import sys
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from two_ways import Way, compare, in_parts

VOCABULARY, HIDDEN, HEADS, LENGTH = 61, 32, 4, 12
TOKENS = torch.randint(VOCABULARY, (4, LENGTH + 1), generator=torch.Generator().manual_seed(1))


class GPT(nn.Module):
    """Embeddings, one pre-norm block, and the output layer, whose weight is the token embedding's."""

    def __init__(self, attention: str) -> None:
        super().__init__()
        self.attention = attention
        self.tokens, self.positions = nn.Embedding(VOCABULARY, HIDDEN), nn.Embedding(LENGTH, HIDDEN)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(HIDDEN) for _ in range(3))
        self.qkv, self.out = nn.Linear(HIDDEN, 3 * HIDDEN), nn.Linear(HIDDEN, HIDDEN)
        self.up, self.down = nn.Linear(HIDDEN, 4 * HIDDEN), nn.Linear(4 * HIDDEN, HIDDEN)
        self.head = nn.Linear(HIDDEN, VOCABULARY, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, ids: Tensor) -> Tensor:
        """(batch, length) token ids -> (batch, length, vocabulary) logits."""
        batch, length = ids.shape
        x = self.tokens(ids) + self.positions(torch.arange(length))
        q, k, v = self.qkv(self.norm1(x)).view(batch, length, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        x = x + self.out(self.mix(q, k, v).transpose(1, 2).reshape(x.shape))
        x = x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))
        return self.head(self.norm3(x))

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(batch, heads, length, size) each -> the values, mixed by attention."""
        seen = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
        if self.attention == "fused":
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)
        if self.attention == "fused, mask transposed":
            return F.scaled_dot_product_attention(q, k, v, attn_mask=seen.T)
        scores = (q @ k.transpose(-2, -1)) / q.shape[-1] ** 0.5
        return scores.masked_fill(~seen, float("-inf")).softmax(-1) @ v


def loss_of(model: nn.Module, tokens: Tensor) -> Tensor:
    """Each token is to be told from those before it."""
    return F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


def main() -> int:
    """Exit code 0 if the two ways agree and the bug is seen."""

    def way(attention: str) -> Way:
        return Way(build=partial(GPT, attention), loss=in_parts(loss_of, TOKENS, 1))

    name = "fused, mask transposed"
    found = compare("GPT block", way("written out"), same={"fused attention": way("fused")}, bugs={name: way(name)})
    return 0 if found else 1


if __name__ == "__main__":
    sys.exit(main())
