"""Constants of a reference: another program's real constants, for which those of this one are taken.

Two programs may compute one constant in two ways that differ in the last place: the slopes of ALiBi, a rotary table.
Exact arithmetic knows no last place: each of the two numbers would be a constant of its own, and nothing computed from
them equal. So a constant that stands for no known number, and lies within a few units in the last place of exactly one
of the reference's, is taken for that one. Each that was taken is listed, for whoever compares the two programs.

The last place is that of the dtype in which the programs compute: 0.7978845608 is sqrt(2 / pi) in float32, and no such
number in float64. So it is between a table of float32 and one that was computed in float64. Never in 16-bit dtypes, in
which a few units are several percent.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Floats = npt.NDArray[np.float64]
Bits = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

FLOAT64_BITS: Final = 53
FLOAT32_BITS: Final = 24
# How far apart two constants may be, in half units in the last place of numbers next to a power of two.
_HALF_UNITS: Final = 8.0
# A tensor of fewer elements is no table: it is taken element by element.
_FEWEST: Final = 8


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TakenConstant:
    """A constant that was taken for one of the reference's.

    Attributes:
        given: the program's own.
        taken: the reference's.
    """

    given: float
    taken: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceConstants:
    """The constants that a program lifted: of each precision, in bits, the different tensors of them, flat.

    In float64 a number may be one of float32 that was converted: it is known to float32's precision.

    Attributes:
        computed_to: the bits of the dtype in which the programs compute, 24 or 53: no two constants are told apart by
            more.
    """

    tables: dict[int, dict[bytes, Floats]] = dataclasses.field(default_factory=dict)
    computed_to: int = FLOAT64_BITS
    _numbers: dict[int, Floats] = dataclasses.field(default_factory=dict)

    @staticmethod
    def merged(several: Iterable[ReferenceConstants], computed_to: int = FLOAT64_BITS) -> ReferenceConstants:
        """All constants of several runs."""
        found = ReferenceConstants(computed_to=computed_to)
        for one in several:
            for bits, tables in one.tables.items():
                found.tables.setdefault(bits, {}).update(tables)
        return found

    def add(self, values: Floats, bits: int) -> None:
        """Take in a tensor of constants; integers alone need not be known."""
        if bits < FLOAT32_BITS or not _fractions(values).any():
            return
        tables = self.tables.setdefault(bits, {})
        content = values.tobytes()
        if content not in tables:
            tables[content] = values.copy()
            self._numbers.pop(bits, None)

    def replace(self, values: Floats, bits: int, unknown: Callable[[Floats, int], Flags]) -> tuple[Floats, Bits]:
        """The values, with the reference's constants in place of those that are taken for them; and to how many bits.

        A tensor is taken as a whole for a tensor of the reference, or for one of the equal parts along its first dim,
        if all elements are near and most stand for no known number; else element by element.

        Args:
            values: flat.
            bits: their precision.
            unknown: of which values of a precision it is not known what number they stand for.

        Returns:
            The values and the precision of each: the reference's where its constant was taken.
        """
        known, fractions = np.full(values.shape, bits), _fractions(values)
        if bits < FLOAT32_BITS:
            return values, known
        if not self.tables or not fractions.any() or values.tobytes() in self.tables.get(bits, {}):
            return values, known
        foreign = fractions & ~self._holds(values, bits)
        if not foreign.any():
            return values, known
        precision = _precision_of(values, bits)
        whole = self._like(values, precision)
        if whole is not None:
            of_fractions = _unknown(values[fractions], precision[fractions], unknown)
            return whole if 2 * int(of_fractions.sum()) > of_fractions.size else (values, known)
        at = np.flatnonzero(foreign)
        at = at[_unknown(values[at], precision[at], unknown)]
        replaced = values.copy()
        replaced[at], known[at] = self._nearest(values[at], precision[at], bits)
        return replaced, known

    def _holds(self, values: Floats, bits: int) -> Flags:
        numbers = self._sorted(bits)
        at = np.minimum(np.searchsorted(numbers, values), max(len(numbers) - 1, 0))
        return numbers[at] == values if len(numbers) else np.zeros(values.shape, dtype=np.bool_)

    def _sorted(self, bits: int) -> Floats:
        if bits not in self._numbers:
            every = np.concatenate([np.zeros(0), *self.tables.get(bits, {}).values()])
            every = every[_fractions(every)]
            self._numbers[bits] = np.unique(np.concatenate([every, -every]))  # of a constant its negative too
        return self._numbers[bits]

    def _like(self, values: Floats, precision: Bits) -> tuple[Floats, Bits] | None:
        """The one tensor of the reference, or part of one, of which every element is near; None if there is not one."""
        found: dict[bytes, tuple[Floats, int]] = {}
        for bits, tables in self.tables.items():
            for table in tables.values():
                if values.size < _FEWEST or table.size % values.size:
                    continue
                parts = table.reshape(-1, values.size)
                parts = parts[np.abs(parts[:, 0] - values[0]) <= np.abs(values[0]) * 2.0**-FLOAT32_BITS * _HALF_UNITS]
                near = self._near(values, parts, precision, bits).all(1)
                found |= {part.tobytes(): (part, bits) for part in parts[near]}
        if len(found) != 1:
            return None
        ((part, known),) = found.values()
        return part.copy(), np.full(values.shape, known)

    def _nearest(self, values: Floats, precision: Bits, own: int) -> tuple[Floats, Bits]:
        """For each value the one number of the reference that is near, and its precision; or the value and its own."""
        result, known = values.copy(), np.full(values.shape, own)
        several: list[dict[float, int]] = [{} for _ in values]
        reach: Floats = _HALF_UNITS * np.exp2(-np.minimum(precision, self.computed_to)) * np.abs(values)
        for bits in sorted(self.tables, key=lambda one: one == own):  # its own precision last, which then stays
            numbers = self._sorted(bits)
            first = np.searchsorted(numbers, values - reach)
            last = np.searchsorted(numbers, values + reach, side="right")
            for i in np.flatnonzero(last > first).tolist():
                around = numbers[first[i] : last[i]]
                each = np.full(around.shape, values[i]), np.full(around.shape, precision[i])
                several[i] |= dict.fromkeys(around[self._near(each[0], around, each[1], bits)].tolist(), bits)
        for i, found in enumerate(several):
            if len(found) == 1:
                ((result[i], known[i]),) = found.items()
        return result, known

    def _near(self, values: Floats, others: Floats, precision: Bits, bits: int) -> Flags:
        """Whether each two are equal, or a few units in the last place apart.

        Of the finer precision of the two, but of none finer than the programs compute in.
        """
        place = np.minimum(np.maximum(precision, _precision_of(others, bits)), self.computed_to)
        with np.errstate(invalid="ignore"):
            near = np.abs(values - others) <= _HALF_UNITS * np.exp2(-place) * np.abs(values)
        found: Flags = near | (values == others)
        return found


def _fractions(values: Floats) -> Flags:
    """Which are finite, and no integers."""
    with np.errstate(invalid="ignore"):
        found: Flags = np.isfinite(values) & (values != np.rint(values))
    return found


def _unknown(values: Floats, precision: Bits, unknown: Callable[[Floats, int], Flags]) -> Flags:
    found = np.zeros(values.shape, dtype=np.bool_)
    for bits in np.unique(precision).tolist():
        found[precision == bits] = unknown(values[precision == bits], bits)
    return found


def _precision_of(values: Floats, bits: int) -> Bits:
    """The bits of each: in float64 those of float32 where it is a number of float32."""
    with np.errstate(over="ignore", invalid="ignore"):
        converted = values.astype(np.float32).astype(np.float64) == values
    return np.where(converted, min(bits, FLOAT32_BITS), bits)
