"""Piecewise functions and their slopes, each a table: its thresholds, and its values before, between and after them.

What a gate is, and why forms of one function meet, stands in pieces.py. Slopes at a tie are those of PyTorch's kernels:
`at` belongs to the values after a threshold, or, if it is `above`, to those before.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from shardproof.exact.algebra.lift import is_symbol
from shardproof.exact.algebra.residue import Residue, Threshold
from shardproof.exact.errors import UnsupportedOpError
from shardproof.exact.rules.pieces import choose, is_greater, limit_of, over_pieces, piecewise, single
from shardproof.exact.rules.registry import formula

if TYPE_CHECKING:
    from torch import Tensor

    from shardproof.exact.algebra.residue import Arithmetic, Operand

_ABOVE_0 = Threshold(0.0, above=True)
_FROM_0 = Threshold(0.0, above=False)


# Clamps ---------------------------------------------------------------------------------------------------------------


def value_of(x: Operand) -> Tensor | float | None:
    """The real numbers that an operand stands for: a Python number, or a constant of which they are known."""
    return x.value if isinstance(x, Residue) else float(x)


def at_least(m: Arithmetic, x: Residue, low: Operand) -> Residue:
    """max(x, low)."""

    def larger(m: Arithmetic, x: Residue, low: Operand) -> Residue:
        base, at, limit = _measured(m, x, low)
        _note_limit(m, x, limit)
        return piecewise(m, base, (Threshold(at, above=False),), (limit, x))

    return over_pieces(m, larger, x, limit_of(x, low))  # type: ignore[no-any-return]


def at_most(m: Arithmetic, x: Residue, high: Operand) -> Residue:
    """min(x, high)."""

    def smaller(m: Arithmetic, x: Residue, high: Operand) -> Residue:
        base, at, limit = _measured(m, x, high)
        _note_limit(m, limit, x)
        return piecewise(m, base, (Threshold(at, above=True),), (x, limit))

    return over_pieces(m, smaller, x, limit_of(x, high))  # type: ignore[no-any-return]


def _measured(m: Arithmetic, x: Residue, limit: Operand) -> tuple[Residue, float, Residue]:
    """What is compared with which number, and the limit: x with a number, x - limit with 0."""
    if not isinstance(limit, Residue):
        return x, float(limit), single(m, limit)
    known = None if x.value is None or limit.value is None else x.value - limit.value
    return replace(x - limit, value=known), 0.0, limit


def _note_limit(m: Arithmetic, x: Residue, y: Residue) -> None:
    """Of single numbers that are limited, x to at least y: see `Arithmetic.limits`."""
    if not x.ndim and not y.ndim and (x.value is None or y.value is None):
        m.limits.update((x - y).tensor.nan_to_num().reshape(-1).int().tolist())


def _limits(low: float | None, high: float | None) -> tuple[float | None, float | None]:
    """Limits that are limits: not -inf, finfo.min, +inf or finfo.max."""
    low = None if low is None or is_symbol(low) else low
    high = None if high is None or is_symbol(-high) else high
    return low, high


@formula("clamp.default")
def clamp(m: Arithmetic, x: Residue, low: float | None = None, high: float | None = None) -> Residue:
    """min(max(x, low), high)."""
    low, high = _limits(low, high)
    x = x if low is None else at_least(m, x, low)
    return x if high is None else at_most(m, x, high)


@formula("hardtanh.default")
def hardtanh(m: Arithmetic, x: Residue, low: float = -1, high: float = 1) -> Residue:
    """clamp(x, low, high)."""
    return clamp(m, x, low, high)


@formula("hardtanh_backward.default", pointwise=True)
def hardtanh_backward(m: Arithmetic, grad: Residue, x: Residue, low: float, high: float) -> Residue:
    """Grad between the limits."""
    return piecewise(m, x, (Threshold(low, above=True), Threshold(high, above=False)), (0, grad, 0))


@formula("relu6.default")
def relu6(m: Arithmetic, x: Residue) -> Residue:
    """clamp(x, 0, 6)."""
    return clamp(m, x, 0, 6)


@formula("relu.default")
def relu(m: Arithmetic, x: Residue) -> Residue:
    """max(x, 0)."""
    return at_least(m, x, 0)


@formula("threshold_backward.default")
def threshold_backward(m: Arithmetic, grad: Residue, y: Residue, threshold: float) -> Residue:
    """Grad where y > threshold. Of relu PyTorch gives the *result*, which knows of what it is a function."""
    return choose(m, is_greater(m, y, threshold, or_equal=False), grad, 0)


@formula("threshold.default")
def threshold(m: Arithmetic, x: Residue, limit: float, value: float) -> Residue:
    """X where x > limit, else value."""
    return piecewise(m, x, (Threshold(limit, above=True),), (value, x))


@formula("clamp_min.default")
def clamp_min(m: Arithmetic, x: Residue, low: float) -> Residue:
    """max(x, low)."""
    return clamp(m, x, low)


@formula("clamp_max.default")
def clamp_max(m: Arithmetic, x: Residue, high: float) -> Residue:
    """min(x, high)."""
    return clamp(m, x, None, high)


# Sign and magnitude ---------------------------------------------------------------------------------------------------


@formula("abs.default")
def absolute(m: Arithmetic, x: Residue) -> Residue:
    """-x below 0."""
    return piecewise(m, x, (_FROM_0,), (-x, x))


@formula("sgn.default", "sign.default")
def sign(m: Arithmetic, x: Residue) -> Residue:
    """The derivative of |x|: -1, 0 or 1."""
    return piecewise(m, x, (_FROM_0, _ABOVE_0), (-1, 0, 1))


@formula("heaviside.default")
def heaviside(m: Arithmetic, x: Residue, values: Residue) -> Residue:
    """0, `values` where x is 0, and 1."""
    return piecewise(m, x, (_FROM_0, _ABOVE_0), (0, values, 1))


@formula("copysign.Tensor", "copysign.Scalar")
def copysign(m: Arithmetic, x: Residue, y: Operand) -> Residue:
    """|x| with the sign of y."""
    if not isinstance(y, Residue):
        return absolute(m, x) if y >= 0 else -absolute(m, x)
    size = absolute(m, x)
    return piecewise(m, y, (_FROM_0,), (-size, size))


# Activations ----------------------------------------------------------------------------------------------------------


@formula("leaky_relu.default")
def leaky_relu(m: Arithmetic, x: Residue, slope: float = 0.01) -> Residue:
    """Slope * x up to 0. Maas et al. 2013."""
    return piecewise(m, x, (_ABOVE_0,), (x * slope, x))


@formula("leaky_relu_backward.default")
def leaky_relu_backward(m: Arithmetic, grad: Residue, x: Residue, slope: float, is_result: bool) -> Residue:
    """Grad, slope * grad up to 0; of an in-place leaky_relu PyTorch gives the result."""

    def slopes(m: Arithmetic, grad: Residue, x: Residue) -> Residue:
        return piecewise(m, x, (_ABOVE_0,), (grad * slope, grad))

    return over_pieces(m, slopes, grad, _argument(x) if is_result else x)  # type: ignore[no-any-return]


@formula("elu.default")
def elu(m: Arithmetic, x: Residue, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Residue:
    """Alpha * scale * (E(input_scale * x) - 1) up to 0, scale * x above. Clevert et al. 2016."""
    below = (x.scaled(input_scale).exp() - 1).scaled(alpha).scaled(scale)
    return piecewise(m, x, (_ABOVE_0,), (below, x.scaled(scale)))


@formula("elu_backward.default")
def elu_backward(
    m: Arithmetic, grad: Residue, alpha: float, scale: float, input_scale: float, is_result: bool, x: Residue
) -> Residue:
    """Grad times the slope; of an in-place elu PyTorch gives the result."""

    def slopes(m: Arithmetic, grad: Residue, x: Residue) -> Residue:
        below = grad * x.scaled(input_scale).exp().scaled(alpha).scaled(scale).scaled(input_scale)
        return piecewise(m, x, (_ABOVE_0,), (below, grad.scaled(scale)))

    return over_pieces(m, slopes, grad, _argument(x) if is_result else x)  # type: ignore[no-any-return]


def _argument(y: Residue) -> Residue:
    """What an activation with a threshold above 0 was given, from its result, which knows of what it is a function."""
    if y.pieces is None or y.pieces.thresholds != (_ABOVE_0,):
        raise UnsupportedOpError("the backward is given a result that it is not told the argument of")
    return y.pieces.base


@formula("celu.default")
def celu(m: Arithmetic, x: Residue, alpha: float = 1) -> Residue:
    """Elu with an input scale."""
    return elu(m, x, alpha, 1, 1 / alpha)


@formula("selu.default")
def selu(m: Arithmetic, x: Residue) -> Residue:
    """Elu with the numbers of Klambauer et al. 2017."""
    return elu(m, x, 1.6732632423543772848170429916717, 1.0507009873554804934193349852946)


@formula("hardswish.default", pointwise=True)
def hardswish(m: Arithmetic, x: Residue) -> Residue:
    """X * clamp(x + 3, 0, 6) / 6. Howard et al. 2019."""
    return piecewise(m, x, (Threshold(-3.0, above=True), Threshold(3.0, above=False)), (0, x * (x + 3) / 6, x))


@formula("hardswish_backward.default", pointwise=True)
def hardswish_backward(m: Arithmetic, grad: Residue, x: Residue) -> Residue:
    """Grad * (x / 3 + 1 / 2) between -3 and 3, grad above."""
    between = grad * (x / 3 + m.constant(0.5))
    return piecewise(m, x, (Threshold(-3.0, above=True), Threshold(3.0, above=False)), (0, between, grad))


@formula("hardsigmoid.default")
def hardsigmoid(m: Arithmetic, x: Residue) -> Residue:
    """clamp(x + 3, 0, 6) / 6."""
    return piecewise(m, x, (Threshold(-3.0, above=True), Threshold(3.0, above=False)), (0, (x + 3) / 6, 1))


@formula("hardsigmoid_backward.default", pointwise=True)
def hardsigmoid_backward(m: Arithmetic, grad: Residue, x: Residue) -> Residue:
    """Grad / 6 between -3 and 3."""
    return piecewise(m, x, (Threshold(-3.0, above=True), Threshold(3.0, above=False)), (0, grad / 6, 0))


def _outside(limit: float) -> tuple[Threshold, Threshold]:
    return Threshold(-limit, above=False), Threshold(limit, above=True)


@formula("hardshrink.default")
def hardshrink(m: Arithmetic, x: Residue, limit: float = 0.5) -> Residue:
    """X outside [-limit, limit]."""
    return piecewise(m, x, _outside(limit), (x, 0, x))


@formula("softshrink.default")
def softshrink(m: Arithmetic, x: Residue, limit: float = 0.5) -> Residue:
    """X outside [-limit, limit], nearer to 0 by the limit."""
    return piecewise(m, x, _outside(limit), (x + limit, 0, x - limit))


@formula("hardshrink_backward.default", "softshrink_backward.default", pointwise=True)
def shrink_backward(m: Arithmetic, grad: Residue, x: Residue, limit: float) -> Residue:
    """Grad outside [-limit, limit]."""
    return piecewise(m, x, _outside(limit), (grad, 0, grad))


@formula("_prelu_kernel.default", pointwise=True)
def prelu(m: Arithmetic, x: Residue, weight: Residue) -> Residue:
    """Weight * x up to 0. He et al. 2015, equation 1."""
    return piecewise(m, x, (_ABOVE_0,), (weight * x, x))


@formula("_prelu_kernel_backward.default")
def prelu_backward(m: Arithmetic, grad: Residue, x: Residue, weight: Residue) -> tuple[Residue, Residue]:
    """The gradients of x and of the weight, element by element."""
    return (
        piecewise(m, x, (_ABOVE_0,), (grad * weight, grad)),
        piecewise(m, x, (_ABOVE_0,), (grad * x, 0)),
    )


@formula("rrelu_with_noise_backward.default")
def rrelu_backward(
    m: Arithmetic,
    grad: Residue,
    x: Residue,
    noise: Residue,
    lower: float,
    upper: float,
    training: bool,
    is_result: bool,
) -> Residue:
    """Outside training the backward of leaky_relu with the mean slope."""
    if training:
        raise UnsupportedOpError("rrelu in training draws its slopes; use eval()")
    return leaky_relu_backward(m, grad, x, (lower + upper) / 2, is_result)
