"""Addition, multiplication, division and what is made of them, elementwise."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from shardproof.exact.algebra.residue import Residue
from shardproof.exact.rules.log_terms import negative_terms, product_of_terms, sum_of_terms
from shardproof.exact.rules.registry import are_linear, formula
from shardproof.exact.rules.symbols import add_symbols, multiply_symbols, subtract_from_symbols

if TYPE_CHECKING:
    from shardproof.exact.algebra.residue import Arithmetic, Operand


@formula("add.Tensor", "add.Scalar", symbols=True, elementwise=True)
def add(m: Arithmetic, x: Residue, y: Operand, alpha: float = 1, *, symbols: bool) -> Residue:
    """X + alpha * y."""
    if symbols:
        return add_symbols(m, x, y, alpha)
    if isinstance(y, Residue):
        found = x.plus(y, times=m.constant(alpha))
        return sum_of_terms(x, y if alpha == 1 else product_of_terms(y, alpha, y.scaled(alpha)), found)
    return sum_of_terms(x, y, x + (y if alpha == 1 else m.constant(y) * m.constant(alpha)))


@formula("sub.Tensor", "sub.Scalar", symbols=True, elementwise=True)
def subtract(m: Arithmetic, x: Residue, y: Operand, alpha: float = 1, *, symbols: bool) -> Residue:
    """X - alpha * y."""
    if symbols:
        return subtract_from_symbols(m, x, y, alpha)
    if isinstance(y, Residue):
        found = x.plus(y, times=-m.constant(alpha))
        return sum_of_terms(x, y if alpha == 1 else product_of_terms(y, alpha, y.scaled(alpha)), found, minus=True)
    return sum_of_terms(x, y, x - (y if alpha == 1 else m.constant(y) * m.constant(alpha)))


@formula("rsub.Tensor", "rsub.Scalar", elementwise=True)
def subtract_from(m: Arithmetic, x: Residue, y: Operand, alpha: float = 1) -> Residue:
    """Y - alpha * x."""
    times = x if alpha == 1 else product_of_terms(x, alpha, x.scaled(alpha))
    found = y.plus(x, times=-m.constant(alpha)) if isinstance(y, Residue) else y - times
    return sum_of_terms(y, times, found, minus=True)


@formula("mul.Tensor", "mul.Scalar", symbols=True, elementwise=True)
def multiply(m: Arithmetic, x: Operand, y: Operand, *, symbols: bool) -> Residue:
    """X * y; the square of a square root is its argument."""
    if not isinstance(x, Residue):
        x, y = y, x
    assert isinstance(x, Residue)
    if symbols:
        return multiply_symbols(m, x, y)
    if x.is_same(y):
        return x.square()
    return product_of_terms(x, y, x * y)


@formula("div.Tensor", "div.Scalar", elementwise=True)
def divide(_m: Arithmetic, x: Residue, y: Operand) -> Residue:
    """X / y, which remembers a number between 0 and 1: Adam's 1 - beta**t.

    Other numbers are counts, 1 over counts and the like: a mean of squares and their sum over a count are one number,
    however each came about, and so are their roots.
    """
    found = product_of_terms(x, y, x / y, divided=True)
    if isinstance(y, Residue) and (y.ndim or y.value is None):
        return found
    number = float(y.value if isinstance(y, Residue) else y)  # type: ignore[arg-type]
    return replace(found, divisor=number) if 0 < number < 1 and not (1 / number).is_integer() else found


@formula("neg.default", elementwise=True)
def negate(_m: Arithmetic, x: Residue) -> Residue:
    """-x."""
    return negative_terms(x, -x)


@formula("reciprocal.default", elementwise=True)
def reciprocal(_m: Arithmetic, x: Residue) -> Residue:
    """1/x."""
    return product_of_terms(1, x, x.inverse(), divided=True)


@formula("square.default", elementwise=True)
def square(_m: Arithmetic, x: Residue) -> Residue:
    """X * x."""
    return x.square()


@formula("addcmul.default", elementwise=True)
def add_product(m: Arithmetic, x: Residue, a: Residue, b: Residue, *, value: float = 1) -> Residue:
    """X + value * a * b."""
    if value == 1 and not a.roots:
        return x.plus_product(a, b)
    return x.plus(a.square() if a.is_same(b) else a * b, times=m.constant(value))


@formula("addcdiv.default", elementwise=True)
def add_quotient(m: Arithmetic, x: Residue, a: Residue, b: Residue, *, value: float = 1) -> Residue:
    """X + value * a / b."""
    return x.plus(a / b, times=m.constant(value))


@formula("lerp.Scalar", "lerp.Tensor", elementwise=True)
def interpolate(_m: Arithmetic, x: Residue, y: Residue, weight: Operand) -> Residue:
    """X + weight * (y - x)."""
    return x.interpolated(y, weight)


are_linear(
    *("add.Tensor", "add.Scalar", "sub.Tensor", "sub.Scalar", "rsub.Scalar", "mul.Tensor", "mul.Scalar"),
    *("div.Tensor", "div.Scalar", "neg.default"),
)
