"""Losses with a kink, as oracles of the difference; cross-entropies of probabilities; divergences."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

from shardproof.exact.rules.registry import formula

if TYPE_CHECKING:
    from shardproof.exact.algebra.residue import Arithmetic, Residue

_MEAN, _SUM = 1, 2  # torch.nn._reduction


def reduced(losses: Residue, reduction: int) -> Residue:
    """The mean, the sum, or the losses one by one."""
    return losses.mean() if reduction == _MEAN else losses.sum() if reduction == _SUM else losses


def _shared(grad: Residue, slope: Residue, reduction: int) -> Residue:
    """Each element's part of the gradient."""
    found = grad * slope
    return found / slope.numel() if reduction == _MEAN else found


def _of_difference(name: str) -> None:
    """A loss that is an even function of x - y, with a parameter, zero at zero; its slope is odd."""

    def forward(_m: Arithmetic, x: Residue, y: Residue, reduction: int = _MEAN, parameter: float = 1.0) -> Residue:
        return reduced((x - y).even_oracle(f"{name} {Fraction(parameter)}", at_zero=0), reduction)

    def backward(_m: Arithmetic, grad: Residue, x: Residue, y: Residue, reduction: int, parameter: float) -> Residue:
        return _shared(grad, (x - y).odd_oracle(f"{name} {Fraction(parameter)}'"), reduction)

    formula(f"{name}.default")(forward)
    formula(f"{name}_backward.default")(backward)


_of_difference("smooth_l1_loss")
_of_difference("huber_loss")


def _weighted(losses: Residue, weight: Residue | None) -> Residue:
    return losses if weight is None else losses * weight


@formula("binary_cross_entropy.default")
def binary_cross_entropy(
    _m: Arithmetic, x: Residue, target: Residue, weight: Residue | None = None, reduction: int = _MEAN
) -> Residue:
    """-(t * log(x) + (1 - t) * log(1 - x)). The clamp of logarithms at -100 is for floating point; it is no kink."""
    losses = -(target * x.log() + (1 - target) * (1 - x).log())
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
    return _shared(grad, _weighted((x - target) / (x * (1 - x)), weight), reduction)


@formula("binary_cross_entropy_with_logits.default")
def binary_cross_entropy_with_logits(
    _m: Arithmetic,
    x: Residue,
    target: Residue,
    weight: Residue | None = None,
    pos_weight: Residue | None = None,
    reduction: int = _MEAN,
) -> Residue:
    """Binary cross-entropy of sigmoid(x): t * w * log(1 + E(-x)) + (1 - t) * log(1 + E(x))."""
    exp = x.exp()
    positive = target * (1 + exp.inverse()).log()
    positive = positive if pos_weight is None else positive * pos_weight
    return reduced(_weighted(positive + (1 - target) * (1 + exp).log(), weight), reduction)


@formula("soft_margin_loss.default")
def soft_margin_loss(_m: Arithmetic, x: Residue, target: Residue, reduction: int = _MEAN) -> Residue:
    """log(1 + E(-t * x))."""
    return reduced((1 + (-(target * x)).exp()).log(), reduction)


@formula("soft_margin_loss_backward.default")
def soft_margin_loss_backward(_m: Arithmetic, grad: Residue, x: Residue, target: Residue, reduction: int) -> Residue:
    """-grad * t * sigmoid(-t * x)."""
    return _shared(grad, -(target * (-(target * x)).sigmoid()), reduction)
