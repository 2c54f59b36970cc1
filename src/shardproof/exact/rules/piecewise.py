"""Piecewise functions: oracles, so that a wrong input cannot vanish behind a zero. Their slopes are oracles too.

Everything that clamps is one function of x and a limit: relu(x) = clamp(x, min=0) = maximum(x, 0), and
min(x, c) = -max(-x, -c); a clamp from both sides is one after the other.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from shardproof.exact.algebra.lift import is_symbol
from shardproof.exact.algebra.residue import Residue
from shardproof.exact.errors import UnsupportedOpError
from shardproof.exact.rules.registry import formula

if TYPE_CHECKING:
    from shardproof.exact.algebra.residue import Arithmetic, Operand

_CLAMP, _LIMIT = "clamp", "limit of clamp"


# Clamps ---------------------------------------------------------------------------------------------------------------


def _shift(m: Arithmetic, low: float) -> int:
    limit = torch.tensor(float(m.constant(low)), dtype=torch.float64)
    return int(m.oracles.look_up(m.oracles.permutation(_LIMIT), limit))


def value_of(x: Operand) -> Tensor | float | None:
    """The real numbers that an operand stands for: a Python number, or a constant of which they are known."""
    return x.value if isinstance(x, Residue) else float(x)


def by_value(m: Arithmetic, condition: Tensor, x: Operand, y: Operand) -> Residue:
    """X where the condition holds, else y."""
    operands = [
        z if isinstance(z, Residue) else m.residue(condition.new_tensor(m.constant(z), dtype=torch.float64))
        for z in (x, y)
    ]
    chosen = torch.where(condition, operands[0].tensor, operands[1].tensor)
    return m.residue(chosen, operands[0].degree | operands[1].degree)


def at_least(m: Arithmetic, x: Residue, low: Residue | float) -> Residue:
    """max(x, low) = P(x + Q(low)), with two random permutations: limits in a tensor mean what numbers mean.

    Of known constants it is the larger one.
    """
    value, limit = value_of(x), value_of(low)
    if isinstance(value, Tensor) and limit is not None:
        larger = by_value(m, value >= limit, x, low)
        return replace(larger, value=torch.where(value >= limit, value, limit))
    if not x.tensor.ndim:
        m.limits.update((x - low).tensor.nan_to_num().reshape(-1).int().tolist())
    if isinstance(low, Residue):
        return (x + low.oracle(_LIMIT)).oracle(_CLAMP)
    return x.shifted_oracle(_CLAMP, _shift(m, low))


def at_least_slope(m: Arithmetic, x: Residue, low: float) -> Residue:
    """The derivative of max(x, low) at x."""
    return x.shifted_oracle(f"{_CLAMP}'", _shift(m, low))


def at_most(m: Arithmetic, x: Residue, high: Residue | float) -> Residue:
    """min(x, high) = -max(-x, -high)."""
    value, limit = value_of(x), value_of(high)
    if isinstance(value, Tensor) and limit is not None:
        smaller = by_value(m, value <= limit, x, high)
        return replace(smaller, value=torch.where(value <= limit, value, limit))
    return -at_least(m, -x, -high)


def _limits(low: float | None, high: float | None) -> tuple[float | None, float | None]:
    """Limits that are limits: not -inf, finfo.min, +inf or finfo.max."""
    low = None if low is None or is_symbol(low) else low
    high = None if high is None or is_symbol(-high) else high
    return low, high


@formula("clamp.default", elementwise=True)
def clamp(m: Arithmetic, x: Residue, low: float | None = None, high: float | None = None) -> Residue:
    """min(max(x, low), high)."""
    low, high = _limits(low, high)
    x = x if low is None else at_least(m, x, low)
    return x if high is None else at_most(m, x, high)


def clamp_slope(m: Arithmetic, x: Residue, low: float | None, high: float | None) -> Residue:
    """The derivative of `clamp` at x."""
    low, high = _limits(low, high)
    slope = None
    if low is not None:
        slope, x = at_least_slope(m, x, low), at_least(m, x, low)
    if high is not None:
        second = at_least_slope(m, -x, -high)
        slope = second if slope is None else slope * second
    return m.residue(torch.ones_like(x.tensor)) if slope is None else slope


@formula("hardtanh_backward.default", elementwise=True)
def hardtanh_backward(m: Arithmetic, grad: Residue, x: Residue, low: float, high: float) -> Residue:
    """Grad times the clamp's slope."""
    return grad * clamp_slope(m, x, low, high)


@formula("hardtanh.default", elementwise=True)
def hardtanh(m: Arithmetic, x: Residue, low: float = -1, high: float = 1) -> Residue:
    """clamp(x, low, high)."""
    return clamp(m, x, low, high)


@formula("relu6.default", elementwise=True)
def relu6(m: Arithmetic, x: Residue) -> Residue:
    """clamp(x, 0, 6)."""
    return clamp(m, x, 0, 6)


@formula("relu.default", elementwise=True)
def relu(m: Arithmetic, x: Residue) -> Residue:
    """max(x, 0)."""
    return at_least(m, x, 0)


@formula("threshold_backward.default", elementwise=True)
def threshold_backward(m: Arithmetic, grad: Residue, y: Residue, threshold: float) -> Residue:
    """The backward of max(x, threshold), which PyTorch computes from its *result*."""
    del threshold  # it is in the result
    return grad * y.oracle_of_preimage(f"{_CLAMP}'", of=_CLAMP)


@formula("threshold.default")
def threshold(m: Arithmetic, x: Residue, limit: float, value: float) -> Residue:
    """X where x > limit, else value; max(x, limit) where the two numbers are one."""
    if m.constant(limit) == m.constant(value):
        return at_least(m, x, limit)
    if x.value is not None:
        return by_value(m, x.value > limit, x, value)
    return x.oracle(f"threshold {m.constant(limit)} {m.constant(value)}")


@formula("clamp_min.default", elementwise=True)
def clamp_min(m: Arithmetic, x: Residue, low: float) -> Residue:
    """max(x, low)."""
    return clamp(m, x, low)


@formula("clamp_max.default", elementwise=True)
def clamp_max(m: Arithmetic, x: Residue, high: float) -> Residue:
    """min(x, high)."""
    return clamp(m, x, None, high)


@formula("clamp.Tensor")
def clamp_tensor(m: Arithmetic, x: Residue, low: Residue | None = None, high: Residue | None = None) -> Residue:
    """min(max(x, low), high)."""
    x = x if low is None else at_least(m, x, low)
    return x if high is None else at_most(m, x, high)


@formula("clamp_min.Tensor")
def clamp_min_tensor(m: Arithmetic, x: Residue, low: Residue) -> Residue:
    """max(x, low)."""
    return clamp_tensor(m, x, low)


@formula("clamp_max.Tensor")
def clamp_max_tensor(m: Arithmetic, x: Residue, high: Residue) -> Residue:
    """min(x, high)."""
    return clamp_tensor(m, x, None, high)


# Others ---------------------------------------------------------------------------------------------------------------


def _parameters(*numbers: float) -> str:
    return " ".join(str(Fraction(number)) for number in numbers)


@formula("abs.default", elementwise=True)
def absolute(m: Arithmetic, x: Residue) -> Residue:
    """An even oracle with |0| = 0; of known constants their magnitude."""
    if x.value is not None:
        return by_value(m, x.value < 0, -x, x)
    return x.even_oracle("abs", at_zero=0)


@formula("sgn.default", "sign.default", elementwise=True)
def sign(m: Arithmetic, x: Residue) -> Residue:
    """The derivative of |x|: an odd oracle; of known constants their sign."""
    if x.value is not None:
        return m.residue(x.value.sign())
    return x.odd_oracle("sign")


@formula("leaky_relu.default", elementwise=True)
def leaky_relu(_m: Arithmetic, x: Residue, slope: float = 0.01) -> Residue:
    """An oracle for each slope."""
    return x.oracle(f"leaky_relu {_parameters(slope)}")


@formula("leaky_relu_backward.default", elementwise=True)
def leaky_relu_backward(_m: Arithmetic, grad: Residue, x: Residue, slope: float, is_result: bool) -> Residue:
    """Grad times the derivative's oracle; of an in-place leaky_relu PyTorch gives the result."""
    return grad * _slope(x, f"leaky_relu {_parameters(slope)}", is_result=is_result)


@formula("elu.default", elementwise=True)
def elu(_m: Arithmetic, x: Residue, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Residue:
    """An oracle for each shape; celu and selu are elus."""
    return x.oracle(f"elu {_parameters(alpha, scale, input_scale)}")


@formula("elu_backward.default")
def elu_backward(
    _m: Arithmetic, grad: Residue, alpha: float, scale: float, input_scale: float, is_result: bool, x: Residue
) -> Residue:
    """Grad times the derivative's oracle."""
    return grad * _slope(x, f"elu {_parameters(alpha, scale, input_scale)}", is_result=is_result)


@formula("celu.default")
def celu(m: Arithmetic, x: Residue, alpha: float = 1) -> Residue:
    """Elu with an input scale."""
    return elu(m, x, alpha, 1, 1 / alpha)


@formula("selu.default")
def selu(m: Arithmetic, x: Residue) -> Residue:
    """Elu with the numbers of Klambauer et al. 2017."""
    return elu(m, x, 1.6732632423543772848170429916717, 1.0507009873554804934193349852946)


def _slope(x: Residue, name: str, *, is_result: bool) -> Residue:
    return x.oracle_of_preimage(f"{name}'", of=name) if is_result else x.oracle(f"{name}'")


def _register_activation(name: str) -> None:
    """An activation without parameters and its backward."""

    def forward(_m: Arithmetic, x: Residue) -> Residue:
        return x.oracle(name)

    def backward(_m: Arithmetic, grad: Residue, x: Residue) -> Residue:
        return grad * x.oracle(f"{name}'")

    formula(f"{name}.default")(forward)
    formula(f"{name}_backward.default")(backward)


_register_activation("hardswish")
_register_activation("hardsigmoid")


def _register_shrinkage(name: str) -> None:
    """An activation that is odd and has one limit, and its backward, which is even."""

    def forward(_m: Arithmetic, x: Residue, limit: float = 0.5) -> Residue:
        return x.odd_oracle(f"{name} {_parameters(limit)}")

    def backward(_m: Arithmetic, grad: Residue, x: Residue, limit: float) -> Residue:
        return grad * x.even_oracle(f"{name} {_parameters(limit)}'", at_zero=0)

    formula(f"{name}.default")(forward)
    formula(f"{name}_backward.default")(backward)


_register_shrinkage("hardshrink")
_register_shrinkage("softshrink")


@formula("_prelu_kernel.default")
def prelu(m: Arithmetic, x: Residue, weight: Residue) -> Residue:
    """max(x, 0) + weight * min(x, 0). He et al. 2015, equation 1."""
    return at_least(m, x, 0) + weight * at_most(m, x, 0)


@formula("_prelu_kernel_backward.default")
def prelu_backward(m: Arithmetic, grad: Residue, x: Residue, weight: Residue) -> tuple[Residue, Residue]:
    """Grad * (slope of max + weight * slope of min), grad * min(x, 0)."""
    slope = at_least_slope(m, x, 0) + weight * at_least_slope(m, -x, 0)
    return grad * slope, grad * at_most(m, x, 0)


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


@formula("heaviside.default")
def heaviside(m: Arithmetic, x: Residue, values: Residue) -> Residue:
    """A step oracle; `values` where x is 0."""
    step = x.oracle("heaviside")
    degree = (step.degree | values.degree).chosen_by(x.degree.compared(2))
    return Residue(torch.where(x.tensor == 0, values.tensor, step.tensor), degree, m)
