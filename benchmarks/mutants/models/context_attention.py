"""Attention of a decoder on one device: which keys a query sees, and what it takes of their values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

HEAD = 2  # channels of a head


class Tokens(NamedTuple):
    """Of each token, [rows, tokens]: its place in the sequence and its document."""

    index: Tensor
    document: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Mask:
    """Which keys a query sees: none after it, none of another document; padding, document -1, sees nothing.

    Attributes:
        window: itself and those before it, so many in all; None: all.
        first: so many at the start of the sequence that are in every window (StreamingLLM's sinks).
    """

    window: int | None = None
    first: int = 0

    def sees(self, queries: Tokens, keys: Tokens) -> Tensor:
        """Booleans [rows, 1, queries, keys]."""
        q, k = queries.index[:, :, None], keys.index[:, None, :]
        inside = k <= q
        if self.window is not None:
            inside = inside & ((q - k < self.window) | (k < self.first))
        q, k = queries.document[:, :, None], keys.document[:, None, :]
        return (inside & (q == k) & (q >= 0))[:, None]


def repeat_heads(x: Tensor, heads: int) -> Tensor:
    """Keys or values [rows, tokens, heads, channels], each head as often as it has groups of queries."""
    return x.repeat_interleave(heads // x.shape[2], 2) if x.shape[2] != heads else x


def weigh(q: Tensor, k: Tensor, v: Tensor, seen: Tensor, sinks: Tensor | None) -> Tensor:
    """softmax(q k^T / sqrt(channels)) v of heads [rows, tokens, heads, channels], with a sink for each head."""
    q, k, v = (repeat_heads(x, q.shape[2]).transpose(1, 2) for x in (q, k, v))
    if sinks is None:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=seen).transpose(1, 2)
    scores = (q @ k.mT / HEAD**0.5).masked_fill(~seen, torch.finfo(q.dtype).min)
    beside = sinks.view(1, -1, 1, 1).expand(*scores.shape[:3], 1)
    weights = torch.cat([scores, beside], -1).softmax(-1)[..., :-1]
    return (weights @ v).transpose(1, 2)


def attend_alone(q: Tensor, k: Tensor, v: Tensor, tokens: Tokens, mask: Mask, sinks: Tensor | None) -> Tensor:
    """All tokens are here."""
    return weigh(q, k, v, mask.sees(tokens, tokens), sinks)
