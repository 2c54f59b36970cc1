"""Losses whose backward PyTorch computes in one op."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from shardproof.exact.rules.registry import formula

if TYPE_CHECKING:
    from shardproof.exact.algebra.residue import Arithmetic, Residue

_MEAN, _SUM = 1, 2  # torch.nn._reduction


@formula("mse_loss.default")
def mse_loss(_m: Arithmetic, x: Residue, y: Residue, reduction: int = _MEAN) -> Residue:
    """(x - y)**2, and its mean or sum."""
    square = (x - y).square()
    return square.mean() if reduction == _MEAN else square.sum() if reduction == _SUM else square


@formula("mse_loss_backward.default")
def mse_loss_backward(_m: Arithmetic, grad: Residue, x: Residue, y: Residue, reduction: int) -> Residue:
    """Grad * 2 * (x - y), over the count for the mean."""
    slope = (x - y) * 2 * grad
    return slope / x.numel() if reduction == _MEAN else slope


def _classes(x: Residue) -> int:
    return 1 if x.ndim > 1 else 0


def _weights(m: Arithmetic, x: Residue, target: Tensor, weight: Residue | None, ignore: int) -> tuple[Residue, Tensor]:
    """Each target's class weight, zero for ignored ones, shaped like the target; and the targets made safe to index."""
    kept = target != ignore
    safe = target.masked_fill(~kept, 0)
    if weight is None:
        return m.residue(kept.to(torch.float64)), safe
    return weight.moved(lambda w: w[safe]).masked(kept), safe


@formula("nll_loss_forward.default", "nll_loss2d_forward.default")
def nll_loss(
    m: Arithmetic, x: Residue, target: Tensor, weight: Residue | None, reduction: int, ignore: int
) -> tuple[Residue, Residue]:
    """-sum(w * x[target]) / sum(w), and the sum of the weights."""
    weights, safe = _weights(m, x, target, weight, ignore)
    dim = _classes(x)
    picked = x.moved(lambda t: t.gather(dim, safe.unsqueeze(dim)).squeeze(dim))
    # An ignored target may stand before a symbol; its weight of zero takes it out.
    losses = -(picked.masked(weights.tensor != 0) * weights)
    if reduction not in (_MEAN, _SUM):
        return losses, m.residue(torch.zeros((), dtype=torch.float64, device=x.tensor.device))
    total = weights.sum()
    return (losses.sum() / total if reduction == _MEAN else losses.sum()), total


@formula("nll_loss_backward.default", "nll_loss2d_backward.default")
def nll_loss_backward(
    m: Arithmetic,
    grad: Residue,
    x: Residue,
    target: Tensor,
    weight: Residue | None,
    reduction: int,
    ignore: int,
    total: Residue,
) -> Residue:
    """-grad * w at the target's place, over sum(w) for the mean."""
    weights, safe = _weights(m, x, target, weight, ignore)
    dim = _classes(x)
    slope = -(weights * grad)
    if reduction == _MEAN:
        slope = slope / total
    return slope.moved(lambda t: torch.zeros_like(x.tensor).scatter_(dim, safe.unsqueeze(dim), t.unsqueeze(dim)))
