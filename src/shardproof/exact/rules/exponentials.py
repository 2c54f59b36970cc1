"""Functions that are formulas in E, the stand-in for exp, and in its inverse log."""

from __future__ import annotations

from dataclasses import replace
from math import log, pi, sqrt
from typing import TYPE_CHECKING, Any

import torch

from shardproof.exact.algebra.residue import Residue, Threshold
from shardproof.exact.rules.log_terms import is_all, moved_terms, negative_terms, product_of_terms, sum_of_terms
from shardproof.exact.rules.pieces import piecewise, single
from shardproof.exact.rules.registry import are_backwards_of_exp, are_of_exp, formula
from shardproof.exact.rules.symbols import with_limit

if TYPE_CHECKING:
    from shardproof.exact.algebra.residue import Arithmetic


@formula("exp.default", elementwise=True, symbols=True)
def exponential(m: Arithmetic, x: Residue, *, symbols: bool = False) -> Residue:
    """E(x), and 0 of a mask's symbols."""
    if not symbols:
        return x.exp()
    return with_limit(m, x, Residue.exp, limit=0.0)


@formula("exp2.default", elementwise=True, symbols=True)
def exponential_of_two(m: Arithmetic, x: Residue, *, symbols: bool = False) -> Residue:
    """E(x * log(2)), as 2**x; 0 of a mask's symbols."""

    def values(x: Residue) -> Residue:
        return product_of_terms(x, log(2), x * log(2)).exp()

    return with_limit(m, x, values, limit=0.0) if symbols else values(x)


@formula("expm1.default", elementwise=True, symbols=True)
def exponential_less_one(m: Arithmetic, x: Residue, *, symbols: bool = False) -> Residue:
    """E(x) - 1."""
    return exponential(m, x, symbols=symbols) - 1


def one_plus(x: Residue) -> Residue:
    """1 + x; of an exponential a sum that knows its logarithm."""
    return sum_of_terms(x, 1, x + 1)


@formula("log.default", elementwise=True)
def logarithm(_m: Arithmetic, x: Residue) -> Residue:
    """The inverse of E."""
    return x.log()


@formula("log2.default", elementwise=True)
def logarithm_to_two(_m: Arithmetic, x: Residue) -> Residue:
    """log(x) / log(2)."""
    return _logarithm_to(x, log(2))


@formula("log10.default", elementwise=True)
def logarithm_to_ten(_m: Arithmetic, x: Residue) -> Residue:
    """log(x) / log(10)."""
    return _logarithm_to(x, log(10))


def _logarithm_to(x: Residue, log_of_base: float) -> Residue:
    found = x.log()
    return product_of_terms(found, log_of_base, found / log_of_base, divided=True)


@formula("log1p.default", elementwise=True)
def logarithm_of_one_plus(_m: Arithmetic, x: Residue) -> Residue:
    """log(1 + x)."""
    return one_plus(x).log()


@formula("sigmoid.default", elementwise=True, symbols=True)
def sigmoid(m: Arithmetic, x: Residue, *, symbols: bool = False) -> Residue:
    """1 / (1 + E(-x)), and 0 of a mask's symbols."""
    if symbols or x.has_log_terms or x.depth is not None:
        return with_limit(m, x, Residue.sigmoid, limit=0.0) if symbols else x.sigmoid()
    below = one_plus((-x).exp())
    return product_of_terms(1, below, below.inverse(), divided=True)


@formula("sigmoid_backward.default", elementwise=True)
def sigmoid_backward(_m: Arithmetic, grad: Residue, y: Residue) -> Residue:
    """Grad * y * (1 - y), y = sigmoid(x)."""
    return grad * (y * (1 - y))


@formula("silu.default", elementwise=True)
def silu(_m: Arithmetic, x: Residue) -> Residue:
    """X * sigmoid(x)."""
    return x * x.sigmoid()


@formula("silu_backward.default", elementwise=True)
def silu_backward(_m: Arithmetic, grad: Residue, x: Residue) -> Residue:
    """Grad * s * (1 + x * (1 - s)), s = sigmoid(x)."""
    s = x.sigmoid()
    return grad * (s * (1 + x * (1 - s)))


@formula("glu.default")
def glu(_m: Arithmetic, x: Residue, dim: int = -1) -> Residue:
    """First half times the sigmoid of the second."""
    first, second = x.moved(lambda t: t.chunk(2, dim)[0]), x.moved(lambda t: t.chunk(2, dim)[1])
    return first * second.sigmoid()


@formula("glu_backward.default")
def glu_backward(_m: Arithmetic, grad: Residue, x: Residue, dim: int) -> Residue:
    """(grad * s, grad * first * s * (1 - s)), s the sigmoid of the second half."""
    first, second = x.moved(lambda t: t.chunk(2, dim)[0]), x.moved(lambda t: t.chunk(2, dim)[1])
    s = second.sigmoid()
    slope = grad * (first * (s * (1 - s)))
    return Residue(torch.cat(((grad * s).tensor, slope.tensor), dim), slope.degree, x.of)


@formula("tanh.default", elementwise=True, symbols=True)
def tanh(m: Arithmetic, x: Residue, *, symbols: bool = False) -> Residue:
    """1 - 2 / (E(2x) + 1), which is 2 * sigmoid(2x) - 1; -1 of a mask's symbols."""

    def values(x: Residue) -> Residue:
        return 1 - 2 * (product_of_terms(x, 2, x * 2).exp() + 1).inverse()

    return with_limit(m, x, values, limit=-1.0) if symbols else values(x)


@formula("tanh_backward.default", elementwise=True)
def tanh_backward(_m: Arithmetic, grad: Residue, y: Residue) -> Residue:
    """Grad * (1 - y**2), y = tanh(x)."""
    return grad * (1 - y * y)


# Hendrycks and Gimpel 2016, with the constants as PyTorch and programs write them.
_ROOT_OF_TWO_OVER_PI, _CUBIC = sqrt(2 / pi), 0.044715


def _gelu_tanh(m: Arithmetic, x: Residue) -> Residue:
    return tanh(m, (x + x * x * x * _CUBIC) * _ROOT_OF_TWO_OVER_PI)


@formula("gelu.default", elementwise=True)
def gelu(m: Arithmetic, x: Residue, *, approximate: str = "none") -> Residue:
    """X * (1 + erf(x / sqrt(2))) / 2, or with tanh(sqrt(2 / pi) * (x + 0.044715 x**3)) in place of erf."""
    gate = _gelu_tanh(m, x) if approximate == "tanh" else (x * sqrt(1 / 2)).odd_oracle("erf")
    return x * (gate + 1) / 2


@formula("gelu_backward.default", elementwise=True)
def gelu_backward(m: Arithmetic, grad: Residue, x: Residue, *, approximate: str = "none") -> Residue:
    """Grad times the derivative, that of erf(z) being 2 / sqrt(pi) * E(-z**2)."""
    if approximate == "tanh":
        gate = _gelu_tanh(m, x)
        slope = (1 - gate * gate) * ((x * x * _CUBIC * 3 + 1) * _ROOT_OF_TWO_OVER_PI)
    else:
        z = x * sqrt(1 / 2)
        gate = z.odd_oracle("erf")
        slope = (-(z * z)).exp() * (2 / sqrt(pi)) * sqrt(1 / 2)
    return grad * ((gate + 1 + x * slope) / 2)


@formula("sinh.default")
def sinh(_m: Arithmetic, x: Residue) -> Residue:
    """(E(x) - 1/E(x)) / 2."""
    e = x.exp()
    return (e - e.inverse()) / 2


@formula("cosh.default")
def cosh(_m: Arithmetic, x: Residue) -> Residue:
    """(E(x) + 1/E(x)) / 2."""
    e = x.exp()
    return (e + e.inverse()) / 2


@formula("softplus.default", elementwise=True)
def softplus(_m: Arithmetic, x: Residue, beta: float = 1, _threshold: float = 20) -> Residue:
    """log(1 + E(beta * x)) / beta. The threshold only saves time in floating point."""
    found = one_plus(x.scaled(beta).exp()).log()
    return found if beta == 1 else product_of_terms(found, beta, found / beta, divided=True)


@formula("softplus_backward.default", elementwise=True)
def softplus_backward(_m: Arithmetic, grad: Residue, x: Residue, beta: float, _threshold: float) -> Residue:
    """Grad * sigmoid(beta * x)."""
    return grad * x.scaled(beta).sigmoid()


@formula("mish.default", elementwise=True)
def mish(m: Arithmetic, x: Residue) -> Residue:
    """X * tanh(softplus(x)). Misra 2019."""
    return x * tanh(m, softplus(m, x))


@formula("mish_backward.default", elementwise=True)
def mish_backward(m: Arithmetic, grad: Residue, x: Residue) -> Residue:
    """Grad * (t + x * (1 - t**2) * sigmoid(x)), t = tanh(softplus(x))."""
    t = tanh(m, softplus(m, x))
    return grad * (t + x * ((1 - t * t) * x.sigmoid()))


def _exp_of_negative(x: Residue) -> Residue:
    return x.exp().inverse() if x.has_log_terms else (-x).exp()


@formula("log_sigmoid_forward.default")
def log_sigmoid(_m: Arithmetic, x: Residue) -> tuple[Residue, Residue]:
    """-log(1 + E(-x)); the second result is a buffer of PyTorch's that nothing of ours reads."""
    found = one_plus(_exp_of_negative(x)).log()
    return negative_terms(found, -found), x.moved(lambda t: t.new_zeros(0))


@formula("log_sigmoid_backward.default")
def log_sigmoid_backward(_m: Arithmetic, grad: Residue, x: Residue, _buffer: Any) -> Residue:
    """Grad * sigmoid(-x)."""
    return grad * (1 + x.exp()).inverse()


@formula("logit.default")
def logit(m: Arithmetic, x: Residue, eps: float | None = None) -> Residue:
    """log(z / (1 - z)), z = x clamped to [eps, 1 - eps]."""
    odds = (x / (1 - x)).log()
    if eps is None or eps < 0:
        return odds
    low, high = single(m, eps), single(m, 1 - eps)
    limits = [(limit / (1 - limit)).log() for limit in (low, high)]
    return piecewise(m, x, _between(eps), (limits[0], odds, limits[1]))


@formula("logit_backward.default")
def logit_backward(m: Arithmetic, grad: Residue, x: Residue, eps: float | None = None) -> Residue:
    """Grad / (x * (1 - x)), between the clamp's limits."""
    found = grad / (x * (1 - x))
    return found if eps is None or eps < 0 else piecewise(m, x, _between(eps), (0, found, 0))


def _between(eps: float) -> tuple[Threshold, Threshold]:
    return Threshold(eps, above=False), Threshold(1 - eps, above=True)


@formula("logaddexp.default", symbols=True)
def log_add_exp(m: Arithmetic, x: Residue, y: Residue, *, symbols: bool = False) -> Residue:
    """log(E(x) + E(y)), E being 0 of a mask's symbol; of two symbols the larger one."""
    shape = torch.broadcast_shapes(x.shape, y.shape)
    for number, zero in ((x, y), (y, x)):
        if not symbols and number.shape == shape and is_all(zero, 0):
            return softplus(m, number)
    exps = exponential(m, x, symbols=symbols), exponential(m, y, symbols=symbols)
    total = sum_of_terms(*exps, exps[0] + exps[1])
    if not symbols:
        return total.log()
    largest = torch.maximum(x.tensor, y.tensor)
    nothing = largest < -m.field.half
    found = replace(total, tensor=total.tensor.masked_fill(nothing, 1.0)).log()
    return replace(found, tensor=torch.where(nothing, largest, found.tensor))


@formula("xlogy.Tensor")
def x_log_y(_m: Arithmetic, x: Residue, y: Residue) -> Residue:
    """X * log(y), 0 where x is 0."""
    return _times_log(x, y)


@formula("special_xlog1py.default")
def x_log_one_plus_y(_m: Arithmetic, x: Residue, y: Residue) -> Residue:
    """X * log(1 + y), 0 where x is 0."""
    return _times_log(x, y + 1)


def _times_log(x: Residue, y: Residue) -> Residue:
    shape = torch.broadcast_shapes(x.shape, y.shape)
    argument = y.moved(lambda t: torch.where(x.tensor.expand(shape) == 0, 1.0, t))
    known = moved_terms(y, lambda t: t.expand(shape))
    if known is not None and bool((x.tensor == 0).any()):
        known = replace(known, whole=0)  # 1 in the places of y: log(E(q) * 1 / E(q)) is 0
    return x * replace(argument, roots=False, logs=known).log()


@formula("special_entr.default")
def entropy(_m: Arithmetic, x: Residue) -> Residue:
    """-x * log(x), 0 where x is 0."""
    return -_times_log(x, x)


are_of_exp(
    *("exp.default", "exp2.default", "expm1.default", "log.default", "log2.default", "log10.default"),
    *("log1p.default", "sigmoid.default", "silu.default", "tanh.default", "softplus.default", "mish.default"),
)
are_backwards_of_exp(
    *("sigmoid_backward.default", "silu_backward.default", "tanh_backward.default", "softplus_backward.default"),
    *("mish_backward.default", "log_sigmoid_backward.default"),
)
