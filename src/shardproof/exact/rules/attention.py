"""Scaled dot-product attention, forward and backward: softmax(scale * q k^T + mask) v, digit for digit as by hand."""

from __future__ import annotations

from dataclasses import replace
from math import sqrt
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from shardproof.exact.algebra.lift import NEGATIVE_INFINITY
from shardproof.exact.algebra.residue import Residue
from shardproof.exact.errors import RandomDrawError
from shardproof.exact.rules.log_terms import sum_of_terms
from shardproof.exact.rules.registry import formula
from shardproof.exact.rules.softmax import exponentials, with_empty_rows_equal
from shardproof.exact.rules.symbols import add_symbols

if TYPE_CHECKING:
    from shardproof.exact.algebra.residue import Arithmetic


def _masked_scores(
    m: Arithmetic, q: Residue, k: Residue, mask: Residue | Tensor | None, *, causal: bool, scale: float
) -> tuple[Residue, bool]:
    """The scores with their masks' symbols in place, (..., queries, keys), and whether there may be any."""
    scores = (q @ k.transpose()) * scale
    symbols = False
    if isinstance(mask, Residue):
        symbols = bool((mask.tensor.abs() > m.field.half).any())
        scores = add_symbols(m, scores, mask, 1) if symbols else sum_of_terms(scores, mask, scores + mask)
    elif mask is not None:
        scores, symbols = _masked(scores, mask), True
    if causal:
        seen = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.tensor.device).tril()
        scores, symbols = _masked(scores, seen), True
    return scores, symbols


def _masked(scores: Residue, seen: Tensor) -> Residue:
    return replace(scores, tensor=torch.where(seen, scores.tensor, NEGATIVE_INFINITY))


def _repeated(x: Residue, heads: int) -> Residue:
    """Keys and values of grouped queries: each head as often as query heads share it."""
    return x if x.shape[-3] == heads else x.moved(lambda t: t.repeat_interleave(heads // t.shape[-3], -3))


def _shared(grad: Residue, heads: int) -> Residue:
    """The transpose of `_repeated`: the gradients of query heads that share one are added up."""
    if grad.shape[-3] == heads:
        return grad
    return grad.moved(lambda t: t.unflatten(-3, (heads, t.shape[-3] // heads))).sum(-3)


def _scale(q: Residue, scale: float | None) -> float:
    return 1 / sqrt(q.shape[-1]) if scale is None else scale


def _refuse_dropout(dropout: float) -> None:
    if dropout:
        raise RandomDrawError(f"attention with dropout {dropout} draws random numbers inside exact arithmetic")


@formula("_scaled_dot_product_flash_attention_for_cpu.default", symbols=True)
def attention(
    m: Arithmetic,
    q: Residue,
    k: Residue,
    v: Residue,
    dropout: float = 0.0,
    causal: bool = False,
    *,
    attn_mask: Residue | Tensor | None = None,
    scale: float | None = None,
    symbols: bool,
) -> tuple[Residue, Residue]:
    """(..., heads, queries, E), (..., heads, keys, E) twice -> (..., heads, queries, E); the scores' log-sum-exp.

    Of a query that sees no key both are 0, as in PyTorch's kernel.
    """
    del symbols  # the scores are looked at
    _refuse_dropout(dropout)
    heads = q.shape[-3]
    scores, symbols = _masked_scores(m, q, _repeated(k, heads), attn_mask, causal=causal, scale=_scale(q, scale))
    exp, empty = _exponentials(m, scores, symbols=symbols)
    total = exp.sum(-1, keepdim=True)
    total = total if empty is None else replace(total, tensor=total.tensor.masked_fill(empty, 1.0))
    out = (exp * total.inverse()) @ _repeated(v, heads)
    return _laid_out(out), total.moved(lambda t: t.squeeze(-1)).log()


def _exponentials(m: Arithmetic, scores: Residue, *, symbols: bool) -> tuple[Residue, Tensor | None]:
    """E of each score, 0 where nothing is seen; and the queries that see no key at all, if there may be any."""
    if not symbols:
        return exponentials(m, scores, symbols=False), None
    scores, empty = with_empty_rows_equal(scores)
    return exponentials(m, scores, symbols=True).masked(~empty), empty


def _laid_out(out: Residue) -> Residue:
    """In memory as PyTorch's kernel writes it: heads next to last."""
    return out.moved(lambda t: t.transpose(-3, -2).contiguous().transpose(-3, -2))


@formula("_scaled_dot_product_flash_attention_for_cpu_backward.default", symbols=True)
def attention_backward(
    m: Arithmetic,
    grad: Residue,
    q: Residue,
    k: Residue,
    v: Residue,
    out: Residue,
    log_sum_exp: Residue,
    dropout: float,
    causal: bool,
    *,
    attn_mask: Residue | Tensor | None = None,
    scale: float | None = None,
    symbols: bool,
) -> tuple[Residue, Residue, Residue]:
    """Dv = w^T dy; with ds = w * (dy v^T - sum(dy * out)) * scale: dq = ds k, dk = ds^T q.

    W is exp(scores - log_sum_exp). The last, and `out`, may be of more keys than these: a block of ring attention.
    """
    del symbols
    _refuse_dropout(dropout)
    factor, heads = _scale(q, scale), q.shape[-3]
    keys, values = _repeated(k, heads), _repeated(v, heads)
    scores, symbols = _masked_scores(m, q, keys, attn_mask, causal=causal, scale=factor)
    total = log_sum_exp.exp().moved(lambda t: t.unsqueeze(-1))
    weights = _exponentials(m, scores, symbols=symbols)[0] * total.inverse()
    along_out = (grad * out).sum(-1, keepdim=True)
    slope = (weights * (grad @ values.transpose() - along_out)) * factor
    dk, dv = slope.transpose() @ q, weights.transpose() @ grad
    return slope @ keys, _shared(dk, k.shape[-3]), _shared(dv, v.shape[-3])
