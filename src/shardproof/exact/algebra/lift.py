"""Lift: real constants to residues, the same for a Python number and for a tensor's element.

A constant stands for the simplest number near it: 0.01 is 1/100 in every dtype, and 0.125**0.5 is a square root of
1/8, so that its square is 1/8. Any other constant is generic: it gets the residue of the quotient found, which has no
meaning but is the same every time.

Only in float64, in which constants are computed inside exact arithmetic, does one within a few ulps of an earlier one
count as that one. In a 16-bit dtype a few ulps are several percent: there, different numbers stand for different ones.
"""

from __future__ import annotations

import dataclasses
from bisect import bisect_left, insort
from fractions import Fraction
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from shardproof.exact.algebra.blocks import blocks
from shardproof.exact.algebra.field import ROOTED, Field
from shardproof.exact.algebra.reference_constants import ReferenceConstants, TakenConstant
from shardproof.exact.errors import SymbolError

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

# Bits of precision of each dtype, the implicit one included: a constant is known to within half of 2**(1 - bits).
PRECISION: Final = {torch.float64: 53, torch.float32: 24, torch.float16: 11, torch.bfloat16: 8}

# The two symbols of masks. The lowest finite number of every dtype is one symbol, whatever the dtype.
LOWEST: Final = torch.finfo(torch.float64).min
_LOWEST_OF_ANY: Final = frozenset(torch.finfo(dtype).min for dtype in PRECISION)
_GREATEST_LOWEST: Final = max(_LOWEST_OF_ANY)
NEGATIVE_INFINITY: Final = float("-inf")

_SNAP_BITS: Final = 3
_SNAP_ULPS: Final = 2.0**_SNAP_BITS
_STEPS: Final = 40
_COARSE_BITS: Final = 11  # of float16; bfloat16 has fewer


def is_symbol(number: float) -> bool:
    """Whether a number is one of the two symbols of masks, -inf and the lowest finite number of a dtype."""
    return number == NEGATIVE_INFINITY or number in _LOWEST_OF_ANY


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Snap:
    """A generic constant that was taken for an earlier one within a few ulps of it."""

    given: float
    taken: float


@dataclasses.dataclass(slots=True, kw_only=True)
class Lift:
    """The lift into one field; remembers constants, so that one computed in float64 another way snaps to the first.

    Attributes:
        field: of the residues.
        reference: the constants of another program, for which those of this one are taken; None without one.
        constants: those lifted so far, to be the reference of another program.
        snaps: constants that were taken for earlier ones of this program.
        taken: constants that were taken for the reference's, by themselves.
    """

    field: Field
    reference: ReferenceConstants | None = None
    constants: ReferenceConstants = dataclasses.field(default_factory=ReferenceConstants)
    snaps: list[Snap] = dataclasses.field(default_factory=list)
    taken: dict[float, TakenConstant] = dataclasses.field(default_factory=dict)
    _seen: dict[int, list[float]] = dataclasses.field(default_factory=dict)
    _residues: dict[tuple[int, float], int] = dataclasses.field(default_factory=dict)

    def number(self, value: float | Fraction, *, bits: int = 53) -> int:
        """The residue of a Python number.

        Raises:
            FloatingPointError: NaN or plus infinity, which no constant of an exact computation can be.
            ZeroDivisionError: the denominator of a Fraction is a multiple of the prime, which cannot hold it.
        """
        if isinstance(value, int | Fraction):
            return self.field.representative(value)
        if is_symbol(value):
            raise SymbolError("-inf or finfo.min is used as a number; exact arithmetic knows them only as masks")
        if not np.isfinite(value):
            msg = f"a constant is {value}; exact arithmetic needs finite numbers (and -inf or finfo.min in masks only)"
            raise FloatingPointError(msg)
        return int(self._lifted(np.array([value]), bits)[0])

    def tensor(self, values: Tensor, *, bits: int | None = None) -> Tensor:
        """The residues of a real tensor's elements, in float64; -inf and finfo.min stay the symbols they are.

        Args:
            values: floating, any shape.
            bits: the precision at which the elements are known; that of the dtype unless given.
        """
        precision = bits or PRECISION[values.dtype]
        flat = values.detach().to("cpu", torch.float64).reshape(-1)
        if self._are_small_integers(flat):
            return values.detach().to(torch.float64, copy=True)
        found = self._lifted(flat.numpy(), precision)
        return torch.from_numpy(found).to(values.device).view(values.shape)

    def _are_small_integers(self, flat: Tensor) -> bool:
        """Whether every element is its own residue: zeros that an optimizer's state starts with, say."""
        for (block,) in blocks(flat):
            small = (block == block.round()) & (block.abs() <= self.field.half)
            if not bool((small & (block != torch.finfo(torch.float16).min)).all()):
                return False
        return True

    def simplest(self, values: Tensor) -> Tensor:
        """The float64 nearest to the number that each element stands for: 0.1 for float32's 0.1. A copy."""
        real = values.detach().to("cpu", torch.float64).reshape(-1).numpy().copy()
        if not (real.size and real.min() > _GREATEST_LOWEST):  # so is NaN
            real[np.isin(real, list(_LOWEST_OF_ANY))] = LOWEST
        if values.dtype == torch.float64:
            return torch.from_numpy(real).to(values.device).view(values.shape)
        rest = np.flatnonzero(np.isfinite(real) & (real != np.rint(real)))
        meaning = _Meaning(real[rest], PRECISION[values.dtype])
        nearest = np.where(meaning.found, meaning.numerator / meaning.denominator, real[rest])
        real[rest] = np.where(
            meaning.rooted,
            np.sign(real[rest]) * np.sqrt(meaning.square_numerator / meaning.square_denominator),
            nearest,
        )
        return torch.from_numpy(real).to(values.device).view(values.shape)

    def _lifted(self, values: Floats, bits: int) -> Floats:
        """The residues of constants; of the reference's in place of their own where they are taken for them."""
        if self.reference is None:
            self.constants.add(values, bits)
            return self._elements(values, bits)
        found, known = self.reference.replace(values, bits, self._unknown)
        for i in np.flatnonzero((found != values) & np.isfinite(values)):
            given = float(values[i])
            self.taken[given] = TakenConstant(given=given, taken=float(found[i]))
        result = found.copy()
        for one in np.unique(known).tolist():
            result[known == one] = self._elements(found[known == one], one)
        return result

    def _unknown(self, values: Floats, bits: int) -> Flags:
        """Which numbers stand for no simple quotient, and no root of one."""
        meaning = _Meaning(values, bits)
        unknown = ~(meaning.simple | meaning.rooted)
        if values.size <= _FEW:
            rest = np.flatnonzero(unknown)
            unknown[rest[list(self._fourth_roots(values[rest], bits))]] = False
        return unknown

    def _elements(self, values: Floats, bits: int) -> Floats:
        result = values.copy()
        symbols = np.isin(values, list(_LOWEST_OF_ANY)) | (values == NEGATIVE_INFINITY)
        result[symbols & (values != NEGATIVE_INFINITY)] = LOWEST
        integers = ~symbols & (np.abs(values) < 2.0**53) & (values == np.rint(values))
        result[integers] = self._balanced(values[integers])
        for position in range(0, values.size, 1 << 20):
            window = slice(position, position + (1 << 20))
            rest = ~(symbols | integers)[window]
            if rest.any():
                result[window][rest] = self._fractions(values[window][rest], bits)
        return result

    def _fractions(self, values: Floats, bits: int) -> Floats:
        if not np.isfinite(values).all():
            msg = "a tensor holds NaN or plus infinity; exact arithmetic needs finite numbers"
            raise FloatingPointError(msg)
        meaning = _Meaning(values, bits)
        quotients, divisible = self._divided(meaning.numerator, meaning.denominator)
        for i in np.flatnonzero(~meaning.found):
            quotients[i] = self.field.representative(_shortest_decimal(float(values[i]), bits))
        for i in np.flatnonzero(meaning.found & divisible):  # this prime cannot hold the quotient: the float itself
            quotients[i] = self.field.representative(Fraction(values[i]))
        rooted = meaning.rooted.copy()
        for i in np.flatnonzero(rooted):
            root = self.root(Fraction(int(meaning.square_numerator[i]), int(meaning.square_denominator[i])))
            if root is not None:
                quotients[i] = root if values[i] > 0 else -root
            else:
                rooted[i] = False
        if values.size <= _FEW:
            generic = ~(meaning.simple | rooted)
            rest = np.flatnonzero(generic)
            for at, fourth in self._fourth_roots(values[rest], bits).items():
                quotients[rest[at]], generic[rest[at]] = fourth, False
            for position, value in enumerate(values.tolist()):
                sign = -1 if value < 0 else 1  # the negative of a constant is taken for that of the same one
                found = sign * int(quotients[position])
                quotients[position] = sign * self._snapped(abs(value), found, bits, generic=bool(generic[position]))
        return quotients

    def root(self, number: Fraction) -> int | None:
        """sqrt(number) for a positive number, None if it has no root; sqrt(a) * sqrt(b) = sqrt(a * b)."""
        integer = number.numerator * number.denominator  # sqrt(a/b) = sqrt(a*b)/b
        root, rest = 1, integer
        for q in ROOTED:
            twice = 0
            while rest % q == 0:
                rest, twice = rest // q, twice + 1
            base: int | None = self.field.square_root(q) if twice % 2 else 1
            if base is None:
                return None
            root = root * base * q ** (twice // 2)
        whole = int(np.sqrt(rest))
        if whole * whole != rest:
            return None
        return self.field.representative(Fraction(root * whole, number.denominator))

    def _fourth_roots(self, values: Floats, bits: int) -> dict[int, int]:
        """The residues of numbers whose fourth power is a very simple quotient: attention may scale by d**-0.25.

        By position; the other numbers are left out.
        """
        if bits <= _COARSE_BITS:  # several numbers of 16 bits are near one
            return {}
        sizes = np.abs(values)
        usable = np.flatnonzero((sizes > 2.0**-200) & (sizes < 2.0**200))  # its fourth power is within float64
        numerator, denominator, near = _nearest_quotients(np.square(np.square(values[usable])), bits - _SNAP_BITS)
        near &= numerator * denominator < 2.0 ** (bits // 3)
        found = {}
        for i in np.flatnonzero(near):
            root = self.root(Fraction(int(numerator[i]), int(denominator[i])))
            fourth = None if root is None else self.field.square_root(root)
            if fourth is None or self.field.representative(fourth * fourth - (root or 0)) != 0:
                continue
            at = int(usable[i])
            found[at] = self.field.representative(fourth if values[at] > 0 else -fourth)
        return found

    def _snapped(self, value: float, residue: int, bits: int, *, generic: bool) -> int:
        seen = self._seen.setdefault(bits, [])  # the same float means another number at another precision
        at = bisect_left(seen, value)
        for near in seen[max(at - 1, 0) : at + 1]:
            if near == value:
                return self._residues[bits, near]
            if (
                generic
                and bits >= PRECISION[torch.float64]
                and abs(near - value) <= _SNAP_ULPS * 2.0**-bits * abs(value)
            ):
                self.snaps.append(Snap(given=value, taken=near))
                return self._residues[bits, near]
        insort(seen, value)
        self._residues[bits, value] = residue
        return residue

    def _balanced(self, integers: Floats) -> Floats:
        remainder = np.fmod(integers, float(self.field.prime))  # fmod is exact
        remainder -= self.field.prime * (remainder > self.field.half)
        remainder += self.field.prime * (remainder < -self.field.half)
        return remainder

    def _divided(self, numerator: Floats, denominator: Floats) -> tuple[Floats, Flags]:
        """The quotients modulo the prime, by Fermat's little theorem: denominator**(p-2); and where p divides it."""
        prime = self.field.prime
        base = np.fmod(denominator, float(prime)).astype(np.int64)
        divisible = base == 0
        inverse, exponent = np.ones_like(base), prime - 2
        while exponent:
            if exponent & 1:
                inverse = inverse * base % prime
            base, exponent = base * base % prime, exponent >> 1
        found = np.fmod(numerator, float(prime)).astype(np.int64) * inverse % prime
        return self._balanced(found.astype(np.float64)), divisible


class _Meaning:
    """What numbers stand for at a precision, elementwise: a quotient of integers, or the square root of one.

    Inside exact arithmetic real constants are computed in float64, each op rounding, so that 0.1 * 3 is an ulp beside
    0.3: in float64 a very simple quotient, or root, may be `_SNAP_ULPS` away.

    Attributes:
        numerator, denominator: of the quotient.
        found: whether there is a quotient within half an ulp, with terms below 2**53.
        simple: whether its terms are so short that it is no coincidence.
        square_numerator, square_denominator: of the number's square.
        rooted: whether the quotient is not simple, but that of the square is.
    """

    def __init__(self, values: Floats, bits: int) -> None:
        self.numerator, self.denominator, self.found = _nearest_quotients(values, bits)
        self.simple = self.found & (np.abs(self.numerator) * self.denominator < 2.0 ** (3 * bits // 4))
        squares = np.square(np.clip(values, -(2.0**100), 2.0**100))  # none so large is a quotient of float64 numbers
        self.square_numerator, self.square_denominator, self.rooted = _nearest_quotients(squares, bits - 2)
        short = 2.0 ** (bits // 2)
        self.rooted &= self.square_numerator * self.square_denominator < short
        if bits >= PRECISION[torch.float64]:
            numerator, denominator, near = _nearest_quotients(values, bits - _SNAP_BITS)
            near &= ~self.simple & (np.abs(numerator) * denominator < short)
            self.numerator[near], self.denominator[near] = numerator[near], denominator[near]
            self.simple |= near
            self.found |= near
            square, unit, near = _nearest_quotients(squares, bits - _SNAP_BITS - 2)
            near &= ~self.rooted & (square * unit < short)
            self.square_numerator[near], self.square_denominator[near] = square[near], unit[near]
            self.rooted |= near
        self.rooted &= ~self.simple
        if bits <= _COARSE_BITS:
            least = _half_ulp(values, bits)
            with np.errstate(invalid="ignore", divide="ignore"):
                self.found &= np.abs(self.numerator / self.denominator - values) <= least
                self.rooted &= (
                    np.abs(np.sqrt(self.square_numerator / self.square_denominator) - np.abs(values)) <= least
                )
            self.simple &= self.found
        if bits >= PRECISION[torch.float32]:  # coarser ones have a short decimal near every number
            numerator, denominator, near = _short_decimals(values, bits)
            near &= ~(self.simple | self.rooted)
            self.numerator[near], self.denominator[near] = numerator[near], denominator[near]
            self.simple |= near
            self.found |= near


def _half_ulp(values: Floats, bits: int) -> Floats:
    """Half a unit in the last place of numbers of so many bits: nearer than this to one number is to no other."""
    _, exponents = np.frexp(values)
    half: Floats = np.ldexp(1.0, exponents - bits - 1)
    return half


def _short_decimals(values: Floats, bits: int) -> tuple[Floats, Floats, Flags]:
    """Quotients m / 10**k of three decimal digits within half an ulp, if there are any: float32's 1e-8 is 1/10**8."""
    size = np.abs(values)
    usable = (size > 1e-19) & (size < 1e3)
    exponents = np.floor(np.log10(np.where(usable, size, 1.0)))
    denominator = _TENS[(2 - exponents).astype(np.int64)]
    numerator = np.rint(np.where(usable, values, 0.0) * denominator)  # what is not usable may overflow
    near = usable & (np.abs(numerator / denominator - values) <= size * 2.0**-bits)
    return numerator, denominator, near


def _shortest_decimal(value: float, bits: int) -> Fraction:
    """The decimal number of fewest digits within half an ulp: what a very small or large constant was written as."""
    coarse = bits <= _COARSE_BITS
    least = Fraction(float(_half_ulp(np.array([value]), bits)[0])) if coarse else abs(Fraction(value)) / 2**bits
    for digits in range(17):
        found = Fraction(f"{value:.{digits}e}")
        if abs(found - Fraction(value)) <= least:
            return found
    return Fraction(value)


_TENS: Final = np.array([float(f"1e{k}") for k in range(23)])  # all of them float64 numbers
_FEW: Final = 4096  # snapping looks at constants one by one; large tables of generic numbers are taken as they are


def _nearest_quotients(values: Floats, bits: int) -> tuple[Floats, Floats, Flags]:
    """Numerators and denominators of the first nearest-integer continued fraction convergent near each value.

    Near means within 2**-bits relatively, half an ulp. Where none is found with terms below 2**53, the flag is false.
    IEEE arithmetic in a fixed order: the same on every machine.
    """
    numerator, denominator = np.zeros_like(values), np.ones_like(values)
    found = np.zeros(values.shape, dtype=np.bool_)
    active = np.flatnonzero((np.abs(values) > 2.0**-50) & (np.abs(values) < 2.0**50))
    target = values[active]
    rest, tolerance = target.copy(), np.abs(target) * 2.0**-bits
    h0, h1 = np.zeros_like(target), np.ones_like(target)
    k0, k1 = np.ones_like(target), np.zeros_like(target)
    for _ in range(_STEPS):
        term = np.rint(rest)
        h0, h1 = h1, term * h1 + h0
        k0, k1 = k1, term * k1 + k0
        usable = (np.abs(h1) < 2.0**53) & (np.abs(k1) < 2.0**53) & (k1 != 0)
        near = usable & (np.abs(target - np.divide(h1, k1, where=usable, out=np.zeros_like(h1))) <= tolerance)
        sign = np.where(k1[near] < 0, -1.0, 1.0)
        numerator[active[near]], denominator[active[near]], found[active[near]] = h1[near] * sign, k1[near] * sign, True
        difference = rest - term
        go_on = usable & ~near & (difference != 0)
        if not go_on.any():
            break
        active, target, tolerance = active[go_on], target[go_on], tolerance[go_on]
        h0, h1, k0, k1 = h0[go_on], h1[go_on], k0[go_on], k1[go_on]
        rest = 1.0 / difference[go_on]
    return numerator, denominator, found
