"""A degree as a list of numbers, so that ranks can agree on one that bounds the elements of all of them.

The largest of each number over several lists is the list of the degrees' `|`: an all-reduce of maxima joins them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from shardproof.exact.algebra.degree import CONSTANT, DEEPEST, UNKNOWN, VARIABLE, Degree
from shardproof.exact.algebra.no_bound import NoBound

if TYPE_CHECKING:
    from collections.abc import Sequence

_NUMBERS: Final = ("over", "under", "gates", "orders", "tops")
# These hold of an element of either if they hold of one of them; the others only if they hold of both.
_EITHER: Final = ("signed", "inverses", "loose", "chosen")
_BOTH: Final = ("monomial", "maximum")
_REASONS: Final = tuple(NoBound)
# A level of queries: whether there is one, its numbers, its flags, and why its bound is lost.
_WIDTH: Final = 1 + len(_NUMBERS) + len(_EITHER) + len(_BOTH) + 1
LENGTH: Final = (DEEPEST + 1) * _WIDTH


def to_numbers(degree: Degree) -> list[float]:
    """The degree as `LENGTH` numbers; UNKNOWN if it has more levels than these hold."""
    found: list[float] = []
    level: Degree | None = degree
    for _ in range(DEEPEST + 1):
        found += _level_to_numbers(level)
        level = None if level is None else level.queries
    return found if level is None else to_numbers(UNKNOWN)


def from_numbers(numbers: Sequence[float]) -> Degree:
    """The degree that `to_numbers` wrote, or the join of several: CONSTANT and VARIABLE are these very values."""
    found: Degree | None = None
    for start in reversed(range(0, LENGTH, _WIDTH)):
        if numbers[start] > 0:
            found = replace(_level_from_numbers(numbers[start : start + _WIDTH]), queries=found)
    assert found is not None, "the outermost level is always there"
    if found.unknown:
        return UNKNOWN if found.lost is None else UNKNOWN.lost_to(found.lost)
    if found.lost is not None:
        return found  # the known values have lost nothing
    return next((known for known in (CONSTANT, VARIABLE) if known == found), found)


def _level_to_numbers(level: Degree | None) -> list[float]:
    if level is None:
        return [0.0] * _WIDTH
    found = [1.0, *(getattr(level, name) for name in _NUMBERS)]
    found += [float(getattr(level, name)) for name in _EITHER]
    found += [float(not getattr(level, name)) for name in _BOTH]
    return [*found, 0.0 if level.lost is None else 1.0 + _REASONS.index(level.lost)]


def _level_from_numbers(numbers: Sequence[float]) -> Degree:
    values = iter(numbers[1:])
    fields: dict[str, Any] = {name: next(values) for name in _NUMBERS}
    fields |= {name: next(values) > 0 for name in _EITHER}
    fields |= {name: next(values) <= 0 for name in _BOTH}
    lost = int(next(values))
    return Degree(**fields, lost=_REASONS[lost - 1] if lost else None)
