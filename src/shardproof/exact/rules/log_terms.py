"""Laws of exp and log that programs rely on, see `LogTerms`.

A maximum is a *shift*: what is subtracted from logits before exp, and cancels afterwards. log(u) has the *unit* u. So

    E(x - m) = E(x) / E(m)                 m a maximum; the result knows the *factor* E(-m), and so does a sum of such
    log(sum(E(x - m))) = L(sum(E(x))) - m  whatever m is: m is added, or subtracted from another logit, as a number
    log(u) - log(v) = L(u / v),            and E of it is u / v
    log(E(x) v) = x + L(v)                 whatever x is: E(x) is a *log factor*, as softmax's are
    log(1 + E(x)) = x + log(1 + E(-x))     see `Residue.softplus`; 1 + E(x) and its inverse are log factors too

and a sum with anything else stays that sum: x - log(z) is x less the stand-in for log(z). Of E(x + y), neither of them
a maximum or a logarithm, nothing is known: E(x + y) is not E(x) E(y) here. docs/exact.md, "exp and log".
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import torch

from shardproof.exact.algebra.degree import CONSTANT
from shardproof.exact.algebra.residue import LogFactor, LogTerms, Residue

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from shardproof.exact.algebra.degree import Degree
    from shardproof.exact.algebra.residue import Operand

# A sum of more maxima than these is an ordinary number, as is a product with more factors.
_MOST: Final = 4
# A mask's number that was scaled, as scores are by 1 / sqrt(d) or a temperature: its exponential is 0 in float64 too.
LEAST_DEPTH: Final = -1_000.0


def as_shift(maximum: Residue) -> Residue:
    """A maximum, which is a shift where it is added to something."""
    bare = replace(maximum, logs=None)
    symbols = bare.tensor < -maximum.of.field.half
    shift = bare.masked(~symbols) if bool(symbols.any()) else bare
    return replace(bare, logs=LogTerms(rest=None, shifts=(shift,)))


# Sums -----------------------------------------------------------------------------------------------------------------


def sum_of_terms(x: Operand, y: Operand, found: Residue, *, minus: bool = False) -> Residue:
    """X + y or x - y, which is `found` as an ordinary sum, with the log terms of both.

    Symbols of masks are zeros in all three.
    """
    if _nothing_known(x) and _nothing_known(y):
        return found
    a, b = terms_of(x), terms_of(y)
    shape = found.shape
    known = _of_binomial(x, y, found, minus=minus)
    if known is not None:
        return replace(found, logs=known)
    factors = _of_either(x, y, shape) if a.factors or b.factors else ()
    depth = _depth_of_sum(_depth_as_summand(x), _depth_as_summand(y), shape, minus=minus)
    shifts = _cancelled([*a.shifts, *(-shift if minus else shift for shift in b.shifts)], shape)
    softpluses = [*a.softpluses, *(factor.inverse() if minus else factor for factor in b.softpluses)]
    if len(shifts) + len(softpluses) > _MOST or not (a.is_sum or b.is_sum):
        return _knowing(found, LogTerms(rest=found.degree, factors=factors, depth=depth))
    rest = _sum_of_rests(a.rest, b.rest)
    unit = a.unit
    if b.unit is not None:
        other = b.unit.inverse() if minus else b.unit
        unit = other if unit is None else unit * other
    terms = LogTerms(
        rest=rest,
        shifts=tuple(shifts),
        unit=None if unit is None else _expanded(unit, shape),
        factors=factors,
        softpluses=tuple(_expanded_factor(factor, shape) for factor in softpluses),
        depth=depth,
    )
    if a.unit is not None and b.unit is not None:
        assert isinstance(x, Residue)
        assert isinstance(y, Residue)
        found = _merged((x.rest(), -y.rest() if minus else y.rest()), terms)
    return _knowing(found, terms)


def _of_binomial(x: Operand, y: Operand, found: Residue, *, minus: bool) -> LogTerms | None:
    """What is known of 1 + E(q), (1 + E(q)) - 1 and 1 - 1 / (1 + E(q)), or their negatives; of x + 0; else None."""
    if is_all(y, 0) and not minus and isinstance(x, Residue) and x.logs is not None and x.shape == found.shape:
        return x.logs if x.logs.log_factors else None
    signs = (1, -1 if minus else 1)
    for one, other, sign, its_sign in ((y, x, signs[1], signs[0]), (x, y, *signs)):
        factor = _only_factor(other, found.shape)
        if factor is None or not (is_all(one, 1) or is_all(one, -1)):
            continue
        number = sign if is_all(one, 1) else -sign
        whole = its_sign * factor.sign
        kinds = {(1, 1, 0): (1, 1), (-1, 1, 1): (1, 0), (1, -1, -1): (-1, -1)}  # see the first line
        for total in (1, -1):
            kind = kinds.get((number * total, whole * total, factor.binomial))
            if kind is not None:
                of_argument, binomial = kind
                argument = factor.argument if of_argument > 0 else -factor.argument
                known = LogFactor(argument=argument, binomial=binomial)
                return LogTerms(rest=found.degree, log_factors=(known,), whole=total)
    return None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Only:
    """A tensor that is one factor, or the negative of it."""

    argument: Residue
    binomial: int
    sign: int


def _only_factor(x: Operand, shape: torch.Size) -> _Only | None:
    """What x is, if it is of this shape and one factor."""
    if not isinstance(x, Residue) or x.logs is None or not x.logs.whole or x.shape != shape:
        return None
    factors = [*(LogFactor(argument=factor) for factor in x.logs.factors), *x.logs.log_factors]
    if len(factors) != 1:
        return None
    return _Only(argument=factors[0].argument, binomial=factors[0].binomial, sign=x.logs.whole)


def is_all(x: Operand, number: int) -> bool:
    """Whether x is this number, or a constant of nothing else."""
    if not isinstance(x, Residue):
        return x == number
    return x.value is not None and bool((x.value == number).all())


def negative_terms(x: Residue, found: Residue) -> Residue:
    """-x, which is `found`, with its log terms."""
    if x.logs is None:
        return found
    unit = None if x.logs.unit is None else x.logs.unit.inverse()
    shifts = tuple(-shift for shift in x.logs.shifts)
    softpluses = tuple(factor.inverse() for factor in x.logs.softpluses)
    whole = -x.logs.whole
    logs = replace(x.logs, shifts=shifts, unit=unit, softpluses=softpluses, whole=whole, depth=None)
    return _knowing(found, logs)


def _merged(rests: tuple[Residue, Residue], terms: LogTerms) -> Residue:
    """The sum of both rests and of the terms of both, with one logarithm."""
    found, *others = terms.summands()
    if terms.rest is not None:
        found = replace(rests[0] + rests[1], degree=terms.rest) + found
    for term in others:
        found = found + term
    return found


# Products -------------------------------------------------------------------------------------------------------------


def product_of_terms(x: Operand, y: Operand, found: Residue, *, divided: bool = False) -> Residue:
    """X * y or x / y, which is `found`, with the factors of both; with log terms where y is one number."""
    if _nothing_known(x) and _nothing_known(y):
        return found
    a, b = terms_of(x), terms_of(y)
    factors = _cancelled([*a.factors, *(-factor if divided else factor for factor in b.factors)], found.shape)
    log_factors = [*a.log_factors, *(factor.inverse() if divided else factor for factor in b.log_factors)]
    whole = _sign_of(x, a) * _sign_of(y, b) if factors or log_factors else 0
    logs = LogTerms(rest=found.degree)
    if not isinstance(y, Residue) or (y.ndim == 0 and y.value is not None):
        logs = _scaled(x, y, divided=divided) if a.is_sum and isinstance(x, Residue) else logs
        if a.depth is not None:
            number = float(y.value if isinstance(y, Residue) else y)  # type: ignore[arg-type]
            scaled = a.depth / number if divided and number else a.depth * number
            logs = replace(logs, depth=_deep_enough(scaled))
    log_factors = [_expanded_factor(factor, found.shape) for factor in log_factors]
    return _knowing(found, replace(logs, factors=tuple(factors), log_factors=tuple(log_factors), whole=whole))


def _sign_of(x: Operand, known: LogTerms) -> int:
    return known.whole or (1 if is_all(x, 1) else -1 if is_all(x, -1) else 0)


def _scaled(x: Residue, number: Operand, *, divided: bool) -> LogTerms:
    """A multiple of each term; the power of a unit and of a binomial is a unit, but for the first few of a binomial."""

    def scaled(term: Residue) -> Residue:
        return term / number if divided else term * number

    logs = terms_of(x)
    times = _times(number, divided=divided)
    softpluses = logs.softpluses * times if 0 < times * len(logs.softpluses) <= _MOST else ()
    powers = [] if logs.unit is None else [logs.unit.log_alone()]
    powers += [] if softpluses else [factor.number() for factor in logs.softpluses]
    unit: Residue | None = None
    for power in powers:
        unit = scaled(power).exp_alone() if unit is None else unit * scaled(power).exp_alone()
    return replace(logs, shifts=tuple(scaled(shift) for shift in logs.shifts), unit=unit, softpluses=softpluses)


def _times(number: Operand, *, divided: bool) -> int:
    """The number as a whole number above 0, or 0."""
    value = float(number.value if isinstance(number, Residue) else number)  # type: ignore[arg-type]
    return int(value) if value > 0 and value.is_integer() and (value == 1 or not divided) else 0


def summed_terms(x: Residue, dims: Sequence[int] | int | None, found: Residue, *, keepdim: bool) -> Residue:
    """The sum of x over dims (none of them: all), which is `found`, with the factors that are the same all along."""
    factors = terms_of(x).factors
    if x.logs is not None and x.shape == found.shape and not x.logs.is_sum:
        return replace(found, logs=x.logs)  # sums of one element
    if not factors or x.ndim == 0 or x.numel() == 0:
        return found
    over = [dims] if isinstance(dims, int) else list(dims or range(x.ndim))
    unused = x.tensor == 0
    kept: list[Residue] = []
    for factor in factors:
        largest = factor.tensor.masked_fill(unused, -torch.inf).amax(over, keepdim=keepdim)
        least = factor.tensor.masked_fill(unused, torch.inf).amin(over, keepdim=keepdim)
        empty = largest == -torch.inf
        if not bool((empty | (largest == least)).all()):
            return found
        kept.append(factor.of.residue(largest.masked_fill(empty, 0.0), factor.degree))
    return _knowing(found, LogTerms(rest=found.degree, factors=tuple(kept)))


def _of_either(x: Operand, y: Operand, shape: torch.Size) -> tuple[Residue, ...]:
    """The factors of a sum: those that each of the two has where it is not zero; none if they are not the same."""
    if not isinstance(x, Residue) or not isinstance(y, Residue):
        return terms_of(x).factors + terms_of(y).factors if is_all(x, 0) or is_all(y, 0) else ()
    used = x.tensor.expand(shape) != 0, y.tensor.expand(shape) != 0
    not_both = ~(used[0] & used[1])
    found, left = [], [_expanded(factor, shape) for factor in terms_of(y).factors]
    for factor in (_expanded(factor, shape) for factor in terms_of(x).factors):
        there = factor.masked(used[0])
        same = next((other for other in left if _is_same(factor.tensor, other.tensor, not_both)), None)
        if same is not None:
            left = [other for other in left if other is not same]
            there = Residue(torch.where(used[0], there.tensor, same.tensor), there.degree | same.degree, there.of)
        elif not _is_zero(factor.tensor, not_both):
            return ()
        found.append(there)
    if not all(_is_zero(factor.tensor, not_both) for factor in left):
        return ()
    return (*found, *(factor.masked(used[1]) for factor in left))


def _knowing(found: Residue, logs: LogTerms) -> Residue:
    if len(logs.factors) > _MOST:
        logs = replace(logs, factors=(), whole=0)
    if len(logs.log_factors) > _MOST:
        logs = replace(logs, log_factors=(), whole=0)
    known = logs.is_sum or logs.factors or logs.log_factors or logs.depth is not None
    return replace(found, logs=logs) if known else found


# Masks ----------------------------------------------------------------------------------------------------------------


def deepest_taken_away(x: Residue, dims: list[int] | int) -> Residue:
    """X with the numbers of masks measured from the least deep of each row, as where the row's maximum is subtracted.

    A row of nothing but masked scores so counts as a row of scores.
    """
    if x.logs is None or x.logs.depth is None or not x.numel():
        return x
    depth = x.logs.depth
    return replace(x, logs=replace(x.logs, depth=_deep_enough(depth - depth.amax(dims, keepdim=True))))


def least_depth(x: Residue, dims: list[int] | int, found: Residue, *, keepdim: bool) -> Residue:
    """A maximum or a log-sum-exp of the rows of x, which is as deep as the least deep of each."""
    return found if x.depth is None else with_depth(found, x.depth.amax(dims, keepdim=keepdim))


def with_depth(found: Residue, depth: Tensor) -> Residue:
    """The residue, known to be this deep."""
    return replace(found, logs=replace(terms_of(found), depth=_deep_enough(depth)))


def _depth_as_summand(x: Operand) -> Tensor | None:
    """One number that is added to all elements is no mask: exp(1e4 * x - 1e4) is not 0."""
    is_number = not isinstance(x, Residue) or (not x.ndim and x.value is not None)
    return None if is_number else terms_of(x).depth


def _depth_of_sum(a: Tensor | None, b: Tensor | None, shape: torch.Size, *, minus: bool) -> Tensor | None:
    if a is None and (b is None or minus):
        return None
    total = torch.zeros(shape, dtype=torch.float64, device=(a if a is not None else b).device)  # type: ignore[union-attr]
    total = total if a is None else total + a
    return _deep_enough(total if b is None else total - b if minus else total + b)


def _deep_enough(depth: Tensor) -> Tensor | None:
    """The numbers that are masks'; None if none is: -1e4 divided by 16 is no mask any more."""
    masking = depth <= LEAST_DEPTH
    return depth.where(masking, 0.0) if bool(masking.any()) else None


# Both -----------------------------------------------------------------------------------------------------------------


def _nothing_known(x: Operand) -> bool:
    return not isinstance(x, Residue) or x.logs is None


def terms_of(x: Operand) -> LogTerms:
    """What is known of an operand."""
    if not isinstance(x, Residue):
        return LogTerms(rest=CONSTANT)
    return LogTerms(rest=x.degree) if x.logs is None else x.logs


def with_zeros(x: Residue) -> Residue:
    """X, some elements of which are or become zero: it is no product of exponentials alone."""
    return x if x.logs is None else replace(x, logs=replace(x.logs, whole=0))


def moved_terms(x: Residue, move: Callable[[Tensor], Tensor]) -> LogTerms | None:
    """What is known of x after a movement of its elements."""
    if x.logs is None:
        return None

    def moved(factors: Sequence[LogFactor]) -> tuple[LogFactor, ...]:
        return tuple(replace(factor, argument=factor.argument.moved(move)) for factor in factors)

    return LogTerms(
        rest=x.logs.rest,
        shifts=tuple(shift.moved(move) for shift in x.logs.shifts),
        unit=None if x.logs.unit is None else x.logs.unit.moved(move),
        factors=tuple(factor.moved(move) for factor in x.logs.factors),
        softpluses=moved(x.logs.softpluses),
        log_factors=moved(x.logs.log_factors),
        whole=x.logs.whole,
        depth=None if x.logs.depth is None else move(x.logs.depth),
    )


def _cancelled(terms: Sequence[Residue], shape: torch.Size) -> list[Residue]:
    """Those that are left of a sum where one is the negative of another, or zero."""
    left: list[Residue] = []
    for term in (_expanded(term, shape) for term in terms):
        opposite = next((other for other in left if _is_same(other.tensor, -term.tensor)), None)
        if opposite is not None:
            left = [other for other in left if other is not opposite]
        elif not _is_zero(term.tensor):
            left.append(term)
    return left


def _is_same(x: Tensor, y: Tensor, passed_over: Tensor | None = None) -> bool:
    """Whether all elements are equal, but for void ones and those that are passed over."""
    same = (x == y) | x.isnan() | y.isnan()
    return bool((same if passed_over is None else same | passed_over).all())


def _is_zero(x: Tensor, passed_over: Tensor | None = None) -> bool:
    return _is_same(x, torch.zeros_like(x), passed_over)


def _sum_of_rests(a: Degree | None, b: Degree | None) -> Degree | None:
    return b if a is None else a if b is None else a + b


def _expanded_factor(factor: LogFactor, shape: torch.Size) -> LogFactor:
    return replace(factor, argument=_expanded(factor.argument, shape))


def _expanded(x: Residue, shape: torch.Size) -> Residue:
    return x if x.shape == shape else x.moved(lambda t: t.expand(shape))
