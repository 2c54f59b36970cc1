"""Sums whose exponentials are products, see `LogTerms`: exp keeps its law where programs rely on it.

A maximum is a *shift*: what is subtracted from logits before exp, and cancels afterwards. log(u) has the *unit* u. So

    E(x - m) = E(x) / E(m)         m a maximum: another one gives another factor, which cancels in a quotient
    m + log(sum(E(x - m)))         is log(sum(E(x))), whatever m is: what is known is E, not m
    log(u) - log(v) = log(u / v),  E(log(u) - log(v)) = u / v

and a sum with anything else stays that sum: x - log(z) is x less the stand-in for log(z). Of E(x + y), neither of them
a maximum or a logarithm, nothing is known: E(x + y) is not E(x) E(y) here. docs/exact.md, "exp and log".
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from shardproof.exact.algebra.degree import CONSTANT
from shardproof.exact.algebra.residue import LogTerms, Residue

if TYPE_CHECKING:
    import torch

    from shardproof.exact.algebra.degree import Degree
    from shardproof.exact.algebra.residue import Operand

# A sum of more maxima than these is an ordinary number.
_MOST_SHIFTS: Final = 4


def as_shift(maximum: Residue) -> Residue:
    """A maximum, which is a shift where it is added to something."""
    bare = replace(maximum, logs=None)
    symbols = bare.tensor < -maximum.of.field.half
    shift = bare.masked(~symbols) if bool(symbols.any()) else bare
    return replace(bare, logs=LogTerms(rest=None, shifts=(shift,)))


def sum_of_terms(x: Residue, y: Operand, found: Residue, *, minus: bool = False) -> Residue:
    """X + y or x - y, which is `found` as an ordinary sum, with the log terms of both.

    Symbols of masks are zeros in all three.
    """
    of_y = y.logs if isinstance(y, Residue) else None
    if x.logs is None and of_y is None:
        return found
    a, b = _terms(x), _terms(y)
    shape = found.shape
    shifts = (*a.shifts, *(-shift if minus else shift for shift in b.shifts))
    rest = _sum_of_rests(a.rest, b.rest)
    units = [unit for unit in (a.unit, b.unit) if unit is not None]
    if not units:
        if len(shifts) > _MOST_SHIFTS:
            return found
        return replace(found, logs=LogTerms(rest=rest, shifts=tuple(_expanded(h, shape) for h in shifts)))
    unit = a.unit
    if b.unit is not None:
        factor = b.unit.inverse() if minus else b.unit
        unit = factor if unit is None else unit * factor
    assert unit is not None
    if shifts or len(units) > 1:
        for shift in shifts:
            unit = unit * shift.exp()
        found = _merged(x, y, unit, rest, minus=minus)
    return replace(found, logs=LogTerms(rest=rest, unit=_expanded(unit, shape)))


def negative_terms(x: Residue, found: Residue) -> Residue:
    """-x, which is `found`, with its log terms."""
    if x.logs is None:
        return found
    unit = None if x.logs.unit is None else x.logs.unit.inverse()
    return replace(found, logs=replace(x.logs, shifts=tuple(-shift for shift in x.logs.shifts), unit=unit))


def scaled_terms(x: Residue, factor: Operand, found: Residue, *, divided: bool = False) -> Residue:
    """X * factor or x / factor, which is `found`, with log terms where the factor is one number."""
    if x.logs is None or (isinstance(factor, Residue) and (factor.ndim > 0 or factor.value is None)):
        return found

    def scaled(term: Residue) -> Residue:
        return term / factor if divided else term * factor

    unit = x.logs.unit
    if unit is not None:
        unit = scaled(replace(unit.log(), logs=None)).exp()
    return replace(found, logs=replace(x.logs, shifts=tuple(scaled(shift) for shift in x.logs.shifts), unit=unit))


def _merged(x: Residue, y: Operand, unit: Residue, rest: Degree | None, *, minus: bool) -> Residue:
    """What x and y are less their log terms, and one logarithm for all of their units and shifts."""
    logarithm = replace(unit.log(), logs=None)
    if rest is None:
        return logarithm
    other = y.rest() if isinstance(y, Residue) else y
    both = x.rest() - other if minus else x.rest() + other
    return replace(both, logs=None) + logarithm


def _terms(x: Operand) -> LogTerms:
    if not isinstance(x, Residue):
        return LogTerms(rest=CONSTANT)
    return LogTerms(rest=x.degree) if x.logs is None else x.logs


def _sum_of_rests(a: Degree | None, b: Degree | None) -> Degree | None:
    return b if a is None else a if b is None else a + b


def _expanded(x: Residue, shape: torch.Size) -> Residue:
    return x if x.shape == shape else x.moved(lambda t: t.expand(shape))
