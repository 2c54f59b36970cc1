"""Elementwise ops: the ring, powers and roots, functions through exp, and oracles for everything with a kink."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

import torch

from shardproof.exact.arithmetic import Residue
from shardproof.exact.lift import is_symbol
from shardproof.exact.registry import formula
from shardproof.exact.rules.matmul import scaled
from shardproof.exact.rules.symbols import add_symbols, multiply_symbols

if TYPE_CHECKING:
    from shardproof.exact.arithmetic import Arithmetic, Operand


# The ring -------------------------------------------------------------------------------------------------------------


@formula("add.Tensor", "add.Scalar", symbols=True)
def add(m: Arithmetic, x: Residue, y: Operand, alpha: float = 1, *, symbols: bool) -> Residue:
    """X + alpha * y."""
    if symbols:
        return add_symbols(m, x, y, alpha)
    if isinstance(y, Residue):
        return x + scaled(y, alpha)
    return x + (y if alpha == 1 else m.constant(y) * m.constant(alpha))


@formula("sub.Tensor", "sub.Scalar")
def subtract(m: Arithmetic, x: Residue, y: Operand, alpha: float = 1) -> Residue:
    """X - alpha * y."""
    if isinstance(y, Residue):
        return x - scaled(y, alpha)
    return x - (y if alpha == 1 else m.constant(y) * m.constant(alpha))


@formula("rsub.Tensor", "rsub.Scalar")
def subtract_from(m: Arithmetic, x: Residue, y: Operand, alpha: float = 1) -> Residue:
    """Y - alpha * x."""
    return y - scaled(x, alpha)


@formula("mul.Tensor", "mul.Scalar", symbols=True)
def multiply(m: Arithmetic, x: Operand, y: Operand, *, symbols: bool) -> Residue:
    """X * y; the square of a square root is what the root was taken of."""
    if not isinstance(x, Residue):
        x, y = y, x
    assert isinstance(x, Residue)
    if symbols:
        return multiply_symbols(m, x, y)
    if isinstance(y, Residue) and y.tensor is x.tensor:
        return x.square()
    return x * y


@formula("div.Tensor", "div.Scalar")
def divide(_m: Arithmetic, x: Residue, y: Operand) -> Residue:
    """X / y."""
    return x / y


@formula("neg.default")
def negate(_m: Arithmetic, x: Residue) -> Residue:
    """-x."""
    return -x


@formula("reciprocal.default")
def reciprocal(_m: Arithmetic, x: Residue) -> Residue:
    """1/x."""
    return x.inverse()


@formula("square.default")
def square(_m: Arithmetic, x: Residue) -> Residue:
    """X * x."""
    return x.square()


@formula("addcmul.default")
def add_product(_m: Arithmetic, x: Residue, a: Residue, b: Residue, *, value: float = 1) -> Residue:
    """X + value * a * b."""
    return x + scaled(a.square() if a.tensor is b.tensor else a * b, value)


@formula("addcdiv.default")
def add_quotient(_m: Arithmetic, x: Residue, a: Residue, b: Residue, *, value: float = 1) -> Residue:
    """X + value * a / b."""
    return x + scaled(a / b, value)


@formula("lerp.Scalar", "lerp.Tensor")
def interpolate(_m: Arithmetic, x: Residue, y: Residue, weight: Operand) -> Residue:
    """X + weight * (y - x)."""
    return x + (y - x) * weight


# Powers and roots -----------------------------------------------------------------------------------------------------


@formula("pow.Tensor_Scalar")
def power(m: Arithmetic, x: Residue, exponent: float) -> Residue:
    """x**a: products for an integer, the square root for a half, else E(a * log(x))."""
    if float(exponent).is_integer():
        whole = int(exponent)
        return x.square() if whole == 2 else x**whole
    if float(exponent * 2).is_integer():
        odd = int(exponent * 2)
        root = x.sqrt()
        return root if odd == 1 else root * power(m, x, (odd - 1) // 2)
    return (x.log() * exponent).exp()


@formula("pow.Tensor_Tensor")
def power_tensor(_m: Arithmetic, x: Residue, exponent: Residue) -> Residue:
    """E(a * log(x))."""
    return (x.log() * exponent).exp()


@formula("pow.Scalar")
def power_scalar(m: Arithmetic, base: float, exponent: Residue) -> Residue:
    """E(a * log(base)); one to any power is one."""
    logarithm = m.residue(torch.full((), float(m.constant(base)), dtype=torch.float64)).log()
    return (exponent * logarithm).exp()


@formula("sqrt.default")
def square_root(_m: Arithmetic, x: Residue) -> Residue:
    """sqrt(x), with sqrt(x)**2 = x."""
    return x.sqrt()


@formula("rsqrt.default")
def reciprocal_square_root(_m: Arithmetic, x: Residue) -> Residue:
    """1 / sqrt(x)."""
    return x.sqrt().inverse()


# Through exp ----------------------------------------------------------------------------------------------------------


@formula("exp.default")
def exponential(_m: Arithmetic, x: Residue) -> Residue:
    """E(x)."""
    return x.exp()


@formula("expm1.default")
def exponential_less_one(_m: Arithmetic, x: Residue) -> Residue:
    """E(x) - 1."""
    return x.exp() - 1


@formula("log.default")
def logarithm(_m: Arithmetic, x: Residue) -> Residue:
    """The inverse of E."""
    return x.log()


@formula("log1p.default")
def logarithm_of_one_plus(_m: Arithmetic, x: Residue) -> Residue:
    """log(1 + x)."""
    return (x + 1).log()


@formula("sigmoid.default")
def sigmoid(_m: Arithmetic, x: Residue) -> Residue:
    """1 / (1 + E(-x))."""
    return x.sigmoid()


@formula("sigmoid_backward.default")
def sigmoid_backward(_m: Arithmetic, grad: Residue, y: Residue) -> Residue:
    """Grad * y * (1 - y), y = sigmoid(x)."""
    return grad * (y * (1 - y))


@formula("silu.default")
def silu(_m: Arithmetic, x: Residue) -> Residue:
    """X * sigmoid(x)."""
    return x * x.sigmoid()


@formula("silu_backward.default")
def silu_backward(_m: Arithmetic, grad: Residue, x: Residue) -> Residue:
    """Grad * s * (1 + x * (1 - s)), s = sigmoid(x)."""
    s = x.sigmoid()
    return grad * (s * (1 + x * (1 - s)))


@formula("tanh.default")
def tanh(_m: Arithmetic, x: Residue) -> Residue:
    """1 - 2 / (E(2x) + 1), which is sinh/cosh."""
    return 1 - 2 * ((x * 2).exp() + 1).inverse()


@formula("tanh_backward.default")
def tanh_backward(_m: Arithmetic, grad: Residue, y: Residue) -> Residue:
    """Grad * (1 - y**2), y = tanh(x)."""
    return grad * (1 - y * y)


@formula("softplus.default")
def softplus(_m: Arithmetic, x: Residue, beta: float = 1, _threshold: float = 20) -> Residue:
    """log(1 + E(beta * x)) / beta. The threshold only saves time in floating point; it is not a kink."""
    return (1 + scaled(x, beta).exp()).log() / beta


@formula("softplus_backward.default")
def softplus_backward(_m: Arithmetic, grad: Residue, x: Residue, beta: float, _threshold: float) -> Residue:
    """Grad * sigmoid(beta * x)."""
    return grad * scaled(x, beta).sigmoid()


@formula("log_sigmoid_forward.default")
def log_sigmoid(_m: Arithmetic, x: Residue) -> tuple[Residue, Residue]:
    """-log(1 + E(-x)); the second result is a buffer of PyTorch's that nothing of ours reads."""
    return -((1 + (-x).exp()).log()), x.moved(lambda t: t.new_zeros(0))


@formula("log_sigmoid_backward.default")
def log_sigmoid_backward(_m: Arithmetic, grad: Residue, x: Residue, _buffer: Any) -> Residue:
    """Grad * sigmoid(-x)."""
    return grad * (-x).sigmoid()


# Oracles --------------------------------------------------------------------------------------------------------------


@formula("gelu.default")
def gelu(_m: Arithmetic, x: Residue, *, approximate: str = "none") -> Residue:
    """An oracle for each form."""
    return x.oracle(f"gelu {approximate}")


@formula("gelu_backward.default")
def gelu_backward(_m: Arithmetic, grad: Residue, x: Residue, *, approximate: str = "none") -> Residue:
    """Grad times the derivative's oracle."""
    return grad * x.oracle(f"gelu {approximate}'")


@formula("relu.default")
def relu(_m: Arithmetic, x: Residue) -> Residue:
    """clamp(x, min=0): an oracle, so that a wrong input cannot vanish behind a zero."""
    return x.oracle(clamp_name(0, None))


@formula("threshold_backward.default")
def threshold_backward(_m: Arithmetic, grad: Residue, y: Residue, threshold: float) -> Residue:
    """Relu's backward, which PyTorch computes from relu's *result*."""
    name = clamp_name(threshold, None)
    return grad * y.oracle_of_preimage(f"{name}'", of=name)


def clamp_name(low: float | None, high: float | None) -> str:
    """The oracle of clamp(x, low, high). relu is clamp(x, min=0), whoever writes it."""
    return f"clamp {_number(low)} {_number(high)}"


def _number(value: float | None) -> str:
    return "none" if value is None else str(Fraction(value))


@formula("clamp.default")
def clamp(_m: Arithmetic, x: Residue, low: float | None = None, high: float | None = None) -> Residue:
    """An oracle for each pair of limits; limits that are no limits are the identity."""
    low = None if low is not None and is_symbol(low) else low
    high = None if high is not None and high == -float("-inf") else high
    return x if low is None and high is None else x.oracle(clamp_name(low, high))


@formula("clamp_min.default")
def clamp_min(m: Arithmetic, x: Residue, low: float) -> Residue:
    """clamp(x, min=low)."""
    return clamp(m, x, low)


@formula("clamp_max.default")
def clamp_max(m: Arithmetic, x: Residue, high: float) -> Residue:
    """clamp(x, max=high)."""
    return clamp(m, x, None, high)


@formula("abs.default")
def absolute(_m: Arithmetic, x: Residue) -> Residue:
    """An even oracle with |0| = 0."""
    return x.even_oracle("abs", at_zero=0)


@formula("sgn.default", "sign.default")
def sign(_m: Arithmetic, x: Residue) -> Residue:
    """The derivative of |x|: an odd oracle."""
    return x.odd_oracle("sign")


@formula("sin.default")
def sine(_m: Arithmetic, x: Residue) -> Residue:
    """An odd oracle."""
    return x.odd_oracle("sin")


@formula("cos.default")
def cosine(_m: Arithmetic, x: Residue) -> Residue:
    """An even oracle with cos(0) = 1."""
    return x.even_oracle("cos", at_zero=1)


@formula("erf.default")
def error_function(_m: Arithmetic, x: Residue) -> Residue:
    """An odd oracle."""
    return x.odd_oracle("erf")
