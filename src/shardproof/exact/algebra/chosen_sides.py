"""Which of two operands was chosen, by each line of the user's code that takes the larger or the smaller of two.

`maximum(a, b)` is one operand or the other. A program that lacks what is needed where it is the other one, as an online
softmax without its rescale does, agrees wherever it is not: whether both were chosen has to be known.
"""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from shardproof.source_lines import innermost_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class ChoicePlace:
    """A choice of a program: the user's line, which call of it this is on its device or rank, and the function."""

    line: str
    call: int
    function: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenSides:
    """Whether some element took the first operand, whether one took the second, and whether both are equal in one.

    Elements of which one operand is the symbol of a mask, or void, count nowhere.
    """

    first: bool
    second: bool
    equal: bool

    def __or__(self, other: ChosenSides) -> ChosenSides:
        return ChosenSides(
            first=self.first or other.first, second=self.second or other.second, equal=self.equal or other.equal
        )

    @property
    def only(self) -> int | None:
        """The number of the one operand that was chosen; None if both were, or neither."""
        return None if self.first == self.second else 0 if self.first else 1


@dataclass(slots=True, kw_only=True)
class ChoiceLog:
    """The choices of one exact run. Ranks that are threads share it, and each counts calls of its own."""

    found: dict[ChoicePlace, ChosenSides] = field(default_factory=dict)
    _calls: Counter[tuple[int, str, str]] = field(default_factory=Counter)

    def add(self, function: str, takes_first: Tensor, equal: Tensor, counts: Tensor) -> None:
        """Note one call; one that the user's code does not make, an optimizer's of PyTorch, is left out.

        Args:
            function: that chooses, as the user calls it.
            takes_first: where the first operand is chosen, if they differ.
            equal: where both operands are the same.
            counts: where the choice is one between two numbers.
        """
        line = innermost_line()
        if not line:
            return
        calls = (threading.get_ident(), line, function)
        place = ChoicePlace(line=line, call=self._calls[calls], function=function)
        self._calls[calls] += 1
        differs = counts & ~equal
        sides = ChosenSides(
            first=bool((differs & takes_first).any()),
            second=bool((differs & ~takes_first).any()),
            equal=bool((counts & equal).any()),
        )
        _join(self.found, place, sides)


def add_choices(runs: Iterable[Mapping[ChoicePlace, ChosenSides]]) -> dict[ChoicePlace, ChosenSides]:
    """The choices of several runs together."""
    found: dict[ChoicePlace, ChosenSides] = {}
    for one in runs:
        for place, sides in one.items():
            _join(found, place, sides)
    return found


def _join(found: dict[ChoicePlace, ChosenSides], place: ChoicePlace, sides: ChosenSides) -> None:
    found[place] = found[place] | sides if place in found else sides
