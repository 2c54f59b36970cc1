"""Powers and roots. sqrt(x)**2 = x, rsqrt(x) = x**-0.5 = 1/sqrt(x), x**1.5 = x * sqrt(x)."""

from __future__ import annotations

from fractions import Fraction
from math import isinf, log
from typing import TYPE_CHECKING

import torch

from shardproof.exact.algebra.degree import CONSTANT
from shardproof.exact.algebra.residue import Residue
from shardproof.exact.rules.piecewise import absolute
from shardproof.exact.rules.registry import formula

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from shardproof.exact.algebra.residue import Arithmetic

# Constant exponents up to this are powers by multiplication, in a tensor as in a scalar.
_LARGEST_EXPONENT = 64
_MOST_EXPONENTS = 64


@formula("pow.Tensor_Scalar", elementwise=True)
def power(m: Arithmetic, x: Residue, exponent: float) -> Residue:
    """x**a: products for an integer, the square root for a half, else E(a * log(x))."""
    if float(exponent).is_integer():
        whole = int(exponent)
        return x.square() if whole == 2 else x**whole
    if float(exponent * 2).is_integer():
        odd = int(exponent * 2)
        root = x.sqrt()
        if odd < 0:
            return root.inverse() ** -odd
        return root if odd == 1 else root * power(m, x, (odd - 1) // 2)
    return (x.log() * exponent).exp()


@formula("pow.Tensor_Tensor")
def power_tensor(m: Arithmetic, x: Residue, exponent: Residue) -> Residue:
    """x**a elementwise; constant exponents are treated as the scalars they are."""
    scalars = _constant_exponents(m, exponent)
    if scalars is None:
        return (x.log() * exponent).exp()
    return _by_exponent(x, exponent.tensor, {key: power(m, x, float(value)) for key, value in scalars.items()})


@formula("pow.Scalar")
def power_scalar(m: Arithmetic, base: float, exponent: Residue) -> Residue:
    """E(a * log(base)), as a program with exp has it; of a base that has no logarithm an oracle."""
    scalars = _constant_exponents(m, exponent)
    if scalars is not None:
        powers = {
            key: _constant_power(m, exponent, m.constant(Fraction(base)), value)
            for key, value in scalars.items()
            if value.denominator == 1
        }
        if len(powers) == len(scalars):
            return _by_exponent(exponent, exponent.tensor, powers)
    if base <= 0:
        return exponent.oracle(f"{Fraction(base)}**")
    return (exponent * log(base)).exp()


@formula("float_power.Tensor_Scalar", elementwise=True)
def float_power(m: Arithmetic, x: Residue, exponent: float) -> Residue:
    """x**a."""
    return power(m, x, exponent)


def _constant_exponents(m: Arithmetic, exponent: Residue) -> dict[float, Fraction] | None:
    """What each residue of a constant tensor stands for, where all are small multiples of a half."""
    if exponent.degree != CONSTANT:
        return None
    found: dict[float, Fraction] = {}
    for digit in exponent.tensor.unique().tolist():
        twice = m.field.representative(2 * int(digit))
        if abs(twice) > 2 * _LARGEST_EXPONENT or len(found) == _MOST_EXPONENTS:
            return None
        found[digit] = Fraction(twice, 2)
    return found


def _constant_power(m: Arithmetic, like: Residue, base: int, exponent: Fraction) -> Residue:
    value = float(m.field.representative(Fraction(base) ** int(exponent)))
    return m.residue(torch.full_like(like.tensor, value))


def _by_exponent(x: Residue, digits: Tensor, powers: dict[float, Residue]) -> Residue:
    shape = torch.broadcast_shapes(x.shape, digits.shape)
    result = x.tensor.new_zeros(shape)
    degree = CONSTANT
    for digit, value in powers.items():
        result = torch.where(digits == digit, value.tensor, result)
        degree |= value.degree
    return Residue(result, degree, x.of)


@formula("sqrt.default", elementwise=True)
def square_root(_m: Arithmetic, x: Residue) -> Residue:
    """sqrt(x), with sqrt(x)**2 = x."""
    return x.sqrt()


@formula("rsqrt.default", elementwise=True)
def reciprocal_square_root(_m: Arithmetic, x: Residue) -> Residue:
    """1 / sqrt(x)."""
    return x.sqrt().inverse()


@formula("hypot.default")
def hypotenuse(_m: Arithmetic, x: Residue, y: Residue) -> Residue:
    """sqrt(x**2 + y**2)."""
    return (x.square() + y.square()).sqrt()


@formula("linalg_vector_norm.default")
def vector_norm(
    m: Arithmetic,
    x: Residue,
    order: float = 2,
    dims: Sequence[int] | None = None,
    keepdim: bool = False,
    *,
    dtype: torch.dtype | None = None,
) -> Residue:
    """sum(|x|**p)**(1/p): the norm of norms is the norm. For p = inf the largest |x| in the keyed order."""
    del dtype
    if order == 2:
        return x.square().sum(dims, keepdim=keepdim).sqrt()
    if order == 0:
        return m.residue((x.tensor != 0).to(torch.float64), x.degree.compared(2)).sum(dims, keepdim=keepdim)
    size = absolute(m, x)
    if isinf(order):
        return _largest(size, dims, keepdim=keepdim, least=order < 0)
    if order == 1:
        return size.sum(dims, keepdim=keepdim)
    even = float(order).is_integer() and order % 2 == 0
    return power(m, power(m, x if even else size, order).sum(dims, keepdim=keepdim), 1 / order)


def _largest(size: Residue, dims: Sequence[int] | None, *, keepdim: bool, least: bool) -> Residue:
    over = tuple(range(size.ndim)) if dims is None or len(dims) == 0 else tuple(dims)
    oracles = size.of.oracles
    rank = oracles.look_up(oracles.permutation("order"), size.tensor)
    best = rank.amin(over, keepdim=keepdim) if least else rank.amax(over, keepdim=keepdim)
    found = oracles.look_up(oracles.permutation_inverse("order"), best)
    return Residue(found, size.degree.selected_from(size.numel() // max(found.numel(), 1)), size.of)
