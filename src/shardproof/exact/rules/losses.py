"""Losses: squared error, negative log-likelihood, cross-entropies of probabilities, and piecewise losses."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from shardproof.exact.algebra.residue import Threshold
from shardproof.exact.rules.exponentials import softplus
from shardproof.exact.rules.log_terms import moved_terms, negative_terms, sum_of_terms
from shardproof.exact.rules.pieces import piecewise, single
from shardproof.exact.rules.registry import formula

if TYPE_CHECKING:
    from shardproof.exact.algebra.residue import Arithmetic, Residue

_MEAN, _SUM = 1, 2  # torch.nn._reduction


def reduced(losses: Residue, reduction: int) -> Residue:
    """The mean, the sum, or the losses one by one."""
    return losses.mean() if reduction == _MEAN else losses.sum() if reduction == _SUM else losses


def _share_of_gradient(grad: Residue, slope: Residue, reduction: int) -> Residue:
    """Each element's gradient: grad * slope, over the count for the mean."""
    found = grad * slope
    return found / slope.numel() if reduction == _MEAN else found


@formula("mse_loss.default")
def mse_loss(_m: Arithmetic, x: Residue, y: Residue, reduction: int = _MEAN) -> Residue:
    """(x - y)**2, and its mean or sum."""
    return reduced((x - y).square(), reduction)


@formula("mse_loss_backward.default")
def mse_loss_backward(_m: Arithmetic, grad: Residue, x: Residue, y: Residue, reduction: int) -> Residue:
    """Grad * 2 * (x - y), over the count for the mean."""
    return _share_of_gradient(grad, (x - y) * 2, reduction)


def _class_dim(x: Residue) -> int:
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
    dim = _class_dim(x)

    def pick(t: Tensor) -> Tensor:
        return t.gather(dim, safe.unsqueeze(dim)).squeeze(dim)

    picked = x.moved(pick)
    losses = -(picked * weights)
    if reduction not in (_MEAN, _SUM):
        if bool((weights.tensor == 1).all()):
            losses = negative_terms(replace(picked, logs=moved_terms(x, pick)), losses)
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
    """-grad * w at the target's class, over sum(w) for the mean."""
    weights, safe = _weights(m, x, target, weight, ignore)
    dim = _class_dim(x)
    slope = -(weights * grad)
    if reduction == _MEAN:
        slope = slope / total
    return slope.moved(lambda t: torch.zeros_like(x.tensor).scatter_(dim, safe.unsqueeze(dim), t.unsqueeze(dim)))


@formula("smooth_l1_loss.default")
def smooth_l1_loss(m: Arithmetic, x: Residue, y: Residue, reduction: int = _MEAN, beta: float = 1.0) -> Residue:
    """d**2 / (2 * beta) where |d| < beta, |d| - beta / 2 elsewhere; d = x - y. Girshick 2015, equation 3."""
    d, half = x - y, single(m, beta) / 2
    thresholds = Threshold(-beta, above=True), Threshold(beta, above=False)
    return reduced(piecewise(m, d, thresholds, (-d - half, d.square() / (half * 4), d - half)), reduction)


@formula("smooth_l1_loss_backward.default")
def smooth_l1_loss_backward(
    m: Arithmetic, grad: Residue, x: Residue, y: Residue, reduction: int, beta: float
) -> Residue:
    """Grad * d / beta where |d| < beta, grad with the sign of d elsewhere."""
    d = x - y
    thresholds = Threshold(-beta, above=True), Threshold(beta, above=False)
    return _share_of_gradient(grad, piecewise(m, d, thresholds, (-1, d / beta, 1)), reduction)


@formula("huber_loss.default")
def huber_loss(m: Arithmetic, x: Residue, y: Residue, reduction: int = _MEAN, delta: float = 1.0) -> Residue:
    """d**2 / 2 where |d| <= delta, delta * (|d| - delta / 2) elsewhere; d = x - y. Huber 1964."""
    d, half = x - y, single(m, delta) / 2
    thresholds = Threshold(-delta, above=False), Threshold(delta, above=True)
    return reduced(piecewise(m, d, thresholds, ((-d - half) * delta, d.square() / 2, (d - half) * delta)), reduction)


@formula("huber_loss_backward.default")
def huber_loss_backward(m: Arithmetic, grad: Residue, x: Residue, y: Residue, reduction: int, delta: float) -> Residue:
    """Grad * d where |d| <= delta, grad * delta with the sign of d elsewhere."""
    d, limit = x - y, single(m, delta)
    thresholds = Threshold(-delta, above=False), Threshold(delta, above=True)
    return _share_of_gradient(grad, piecewise(m, d, thresholds, (-limit, d, limit)), reduction)


def _weighted(losses: Residue, weight: Residue | None) -> Residue:
    return losses if weight is None else losses * weight


@formula("binary_cross_entropy.default")
def binary_cross_entropy(
    _m: Arithmetic, x: Residue, target: Residue, weight: Residue | None = None, reduction: int = _MEAN
) -> Residue:
    """-(t * log(x) + (1 - t) * log(1 - x)). The clamp of logarithms at -100 is for floating point alone."""
    losses = -(target * x.log() + (1 - target) * sum_of_terms(1, x, 1 - x, minus=True).log())
    return reduced(_weighted(losses, weight), reduction)


@formula("binary_cross_entropy_backward.default")
def binary_cross_entropy_backward(
    _m: Arithmetic,
    grad: Residue,
    x: Residue,
    target: Residue,
    weight: Residue | None = None,
    reduction: int = _MEAN,
) -> Residue:
    """Grad * (x - t) / (x * (1 - x))."""
    return _share_of_gradient(grad, _weighted((x - target) / (x * (1 - x)), weight), reduction)


@formula("binary_cross_entropy_with_logits.default")
def binary_cross_entropy_with_logits(
    m: Arithmetic,
    x: Residue,
    target: Residue,
    weight: Residue | None = None,
    pos_weight: Residue | None = None,
    reduction: int = _MEAN,
) -> Residue:
    """Binary cross-entropy of sigmoid(x): t * w * log(1 + E(-x)) + (1 - t) * log(1 + E(x))."""
    if pos_weight is None and weight is None and x.logs is None and _is_zeros_and_ones(target, x.shape):
        return reduced(softplus(m, x * (1 - 2 * target)), reduction)
    positive = target * softplus(m, negative_terms(x, -x))
    positive = positive if pos_weight is None else positive * pos_weight
    return reduced(_weighted(positive + (1 - target) * softplus(m, x), weight), reduction)


def _is_zeros_and_ones(target: Residue, shape: torch.Size) -> bool:
    """Whether these are classes: then the loss is the logarithm of one sum, which knows its exponential."""
    return target.shape == shape and target.value is not None and bool((target.value**2 == target.value).all())


@formula("soft_margin_loss.default")
def soft_margin_loss(m: Arithmetic, x: Residue, target: Residue, reduction: int = _MEAN) -> Residue:
    """log(1 + E(-t * x))."""
    return reduced(softplus(m, -(target * x)), reduction)


@formula("soft_margin_loss_backward.default")
def soft_margin_loss_backward(_m: Arithmetic, grad: Residue, x: Residue, target: Residue, reduction: int) -> Residue:
    """-grad * t * sigmoid(-t * x)."""
    return _share_of_gradient(grad, -(target * (-(target * x)).sigmoid()), reduction)
