"""Special functions as oracles that keep nothing but parity and the value at zero; rounding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from shardproof.exact.algebra.lift import LOWEST, NEGATIVE_INFINITY
from shardproof.exact.algebra.residue import Residue
from shardproof.exact.rules.registry import formula

if TYPE_CHECKING:
    from collections.abc import Callable

    from shardproof.exact.algebra.residue import Arithmetic, Operand

# Plain functions; those that are odd; those that are even, with their value at zero.
_PLAIN = (
    *("acos", "acosh", "digamma", "lgamma", "special_erfcx", "special_log_ndtr", "special_ndtri"),
    *("special_airy_ai", "special_bessel_y0", "special_bessel_y1"),
    *("special_modified_bessel_k0", "special_modified_bessel_k1"),
    *("special_scaled_modified_bessel_k0", "special_scaled_modified_bessel_k1"),
)
_ODD = (
    *("sin", "asin", "asinh", "atan", "atanh", "erf", "erfinv", "special_i1", "special_i1e"),
    *("special_bessel_j1", "special_modified_bessel_i1"),
)
_EVEN = {
    "cos": 1,
    "i0": 1,
    "special_i0e": 1,
    "special_bessel_j0": 1,
    "special_modified_bessel_i0": 1,
    "special_spherical_bessel_j0": 1,
    "sinc": 1,
}


def _register() -> None:
    for name in _PLAIN:
        formula(f"{name}.default", elementwise=True)(lambda _m, x, name=name: x.oracle(name))
    for name in _ODD:
        formula(f"{name}.default", elementwise=True)(lambda _m, x, name=name: x.odd_oracle(name))
    for name, at_zero in _EVEN.items():
        formula(f"{name}.default", elementwise=True)(
            lambda _m, x, name=name, one=at_zero: x.even_oracle(name, at_zero=one)
        )


_register()


@formula("tan.default")
def tangent(_m: Arithmetic, x: Residue) -> Residue:
    """sin(x) / cos(x)."""
    return x.odd_oracle("sin") / x.even_oracle("cos", at_zero=1)


@formula("erfc.default")
def complementary_error_function(_m: Arithmetic, x: Residue) -> Residue:
    """1 - erf(x)."""
    return 1 - x.odd_oracle("erf")


@formula("polygamma.default")
def polygamma(_m: Arithmetic, order: int, x: Residue) -> Residue:
    """An oracle for each order."""
    return x.oracle("digamma" if order == 0 else f"polygamma {order}")


@formula("deg2rad.default")
def degrees_to_radians(_m: Arithmetic, x: Residue) -> Residue:
    """X times the constant pi / 180."""
    return x * (torch.pi / 180)


@formula("rad2deg.default")
def radians_to_degrees(_m: Arithmetic, x: Residue) -> Residue:
    """X times the constant 180 / pi."""
    return x * (180 / torch.pi)


# Rounding -------------------------------------------------------------------------------------------------------------


def floor_of(x: Residue, value: Tensor | None = None) -> Residue:
    """An oracle; of a constant whose real value is known, the whole number."""
    return x.oracle("floor") if value is None else _whole(x, value, torch.floor)


def truncated(x: Residue, value: Tensor | None = None) -> Residue:
    """An odd oracle; of a constant whose real value is known, the whole number."""
    return x.odd_oracle("trunc") if value is None else _whole(x, value, torch.trunc)


def _whole(x: Residue, value: Tensor, rounded: Callable[[Tensor], Tensor]) -> Residue:
    """The whole numbers that reals are rounded to; one that float64 holds an ulp beside a whole number is that."""
    nearest = value.round()
    near = (value - nearest).abs() <= 2.0**-40 * (1 + nearest.abs())
    near &= x.of.field.reduce_(nearest.fmod(x.of.field.prime)) == x.tensor
    whole = torch.where(near, nearest, rounded(value))
    return x.of.residue(x.of.field.reduce_(whole.fmod(x.of.field.prime)))


def _quotient(x: Residue | float, y: Operand) -> Tensor | None:
    """The real value of x / y where both are known and no divisor is zero."""
    a, b = (z.value if isinstance(z, Residue) else float(z) for z in (x, y))
    if a is None or b is None or not bool(torch.as_tensor(b != 0).all()):
        return None
    return torch.as_tensor(a / b)


@formula("floor.default")
def floor(_m: Arithmetic, x: Residue) -> Residue:
    """An oracle, or the whole number below."""
    return floor_of(x, x.value)


@formula("trunc.default", elementwise=True)
def truncate(_m: Arithmetic, x: Residue) -> Residue:
    """An odd oracle, or the whole number towards zero."""
    return truncated(x, x.value)


@formula("round.default", elementwise=True)
def round_to_whole(_m: Arithmetic, x: Residue) -> Residue:
    """An odd oracle, or the nearest whole number."""
    return x.odd_oracle("round") if x.value is None else _whole(x, x.value, torch.round)


@formula("ceil.default")
def ceil(_m: Arithmetic, x: Residue) -> Residue:
    """-floor(-x)."""
    return -floor_of(-x, None if x.value is None else -x.value)


@formula("frac.default")
def fraction(_m: Arithmetic, x: Residue) -> Residue:
    """X - trunc(x)."""
    return x - truncated(x, x.value)


@formula("round.decimals")
def round_to(_m: Arithmetic, x: Residue, *, decimals: int) -> Residue:
    """round(x * 10**d) / 10**d."""
    scale = int(10 ** abs(decimals))
    if decimals < 0:
        return (x / scale).odd_oracle("round") * scale
    return (x * scale).odd_oracle("round") / scale


@formula("div.Tensor_mode", "div.Scalar_mode")
def divide_and_round(_m: Arithmetic, x: Residue, y: Operand, *, rounding_mode: str | None) -> Residue:
    """X / y, then floor or trunc of it."""
    quotient = x / y
    if rounding_mode is None:
        return quotient
    value = _quotient(x, y)
    return floor_of(quotient, value) if rounding_mode == "floor" else truncated(quotient, value)


@formula("floor_divide.default", "floor_divide.Scalar")
def floor_divide(_m: Arithmetic, x: Residue, y: Operand) -> Residue:
    """floor(x / y)."""
    return floor_of(x / y, _quotient(x, y))


@formula("remainder.Tensor", "remainder.Scalar")
def remainder(_m: Arithmetic, x: Residue, y: Operand) -> Residue:
    """X - y * floor(x / y)."""
    return x - floor_of(x / y, _quotient(x, y)) * y


@formula("remainder.Scalar_Tensor")
def remainder_of_scalar(m: Arithmetic, x: float, y: Residue) -> Residue:
    """X - y * floor(x / y)."""
    return x - floor_of(x / y, _quotient(x, y)) * y


@formula("fmod.Tensor", "fmod.Scalar")
def truncated_remainder(_m: Arithmetic, x: Residue, y: Operand) -> Residue:
    """X - y * trunc(x / y)."""
    return x - truncated(x / y, _quotient(x, y)) * y


@formula("nan_to_num.default", symbols=True)
def nan_to_num(
    m: Arithmetic, x: Residue, nan: Any = None, posinf: Any = None, neginf: float | None = None, *, symbols: bool
) -> Residue:
    """X: a residue is a number. Of the symbols -inf becomes finfo.min, or the number given."""
    if not symbols:
        return x.moved(torch.clone)
    lowest = LOWEST if neginf is None else float(m.constant(neginf))
    return m.residue(torch.where(x.tensor == NEGATIVE_INFINITY, lowest, x.tensor), x.degree)


# Of two numbers -------------------------------------------------------------------------------------------------------


def oracle_of_two(x: Residue, y: Residue, name: str) -> Residue:
    """f(x, y) = P(x + Q(y)) with two random permutations: for either argument fixed, a permutation of the other."""
    return (x + y.oracle(f"{name}, second")).oracle(name)


def _register_two(*names: str) -> None:
    for name in names:
        formula(name)(lambda _m, x, y, name=name: oracle_of_two(x, y, name))


_POLYNOMIALS = (
    *("chebyshev_polynomial_t", "chebyshev_polynomial_u", "chebyshev_polynomial_v", "chebyshev_polynomial_w"),
    *("shifted_chebyshev_polynomial_t", "shifted_chebyshev_polynomial_u", "shifted_chebyshev_polynomial_v"),
    *("shifted_chebyshev_polynomial_w", "hermite_polynomial_h", "hermite_polynomial_he", "laguerre_polynomial_l"),
    "legendre_polynomial_p",
)
_register_two("atan2.default", "nextafter.default", "igamma.default", "igammac.default")
_register_two("special_zeta.default", *(f"special_{name}.default" for name in _POLYNOMIALS))
