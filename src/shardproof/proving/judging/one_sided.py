"""Choices between two operands that always went one way: what is computed where the other is chosen was not compared.

`maximum(a, b)` in an online softmax is `a` in some rows and `b` in others. Where it was `a` in all rows of all trials,
a program that forgets to rescale what belongs to `a` agreed in each of them, whatever the prime is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from shardproof.exact.algebra.chosen_sides import add_choices
from shardproof.proving.cause import Cause, CauseKind
from shardproof.proving.findings import Finding, Verdict
from shardproof.proving.records import Key, Phase

if TYPE_CHECKING:
    from shardproof.exact.algebra.chosen_sides import ChoicePlace, ChosenSides
    from shardproof.proving.records import BothSides

# An operand that is often equal to the other and never chosen over it belongs to it: a maximum and one of its parts.
# So many trials without the other way tell that apart from chance.
_TRIALS_OF_PARTS: Final = 6
_ORDINALS: Final = ("first", "second")


@dataclass(slots=True)
class Choices:
    """The choices of all trials together, of one device and of all ranks."""

    trials: int = 0
    found: dict[ChoicePlace, ChosenSides] = field(default_factory=dict)

    def add(self, both: BothSides) -> None:
        """Add those of further trials."""
        self.trials += len(both.primes)
        self.found = add_choices([self.found, *(side.choices for side in (both.reference, *both.ranks))])

    def add_others(self, others: Choices) -> None:
        """Add those of trials that were taken elsewhere."""
        self.trials += others.trials
        self.found = add_choices([self.found, others.found])

    def one_sided(self) -> tuple[ChoicePlace, ...]:
        """The choices that always went one way although operands differed."""
        return tuple(
            place
            for place, sides in sorted(self.found.items())
            if sides.only is not None and not (sides.equal and self.trials >= _TRIALS_OF_PARTS)
        )


def conclude_one_sided(choices: Choices) -> tuple[Finding, ...]:
    """One finding for each line that has such choices, at the first of them."""
    first: dict[tuple[str, str], ChoicePlace] = {}
    for place in choices.one_sided():
        first.setdefault((place.line, place.function), place)
    return tuple(_conclude(place, choices.found[place]) for place in first.values())


def _conclude(place: ChoicePlace, sides: ChosenSides) -> Finding:
    assert sides.only is not None
    return Finding(
        key=Key(0, Phase.SELECTION, place.line, place.call),
        verdict=Verdict.VACUOUS,
        cause=Cause(
            kind=CauseKind.ONE_SIDED,
            operands=(f"the {_ORDINALS[sides.only]} operand of {place.function}", _ORDINALS[1 - sides.only]),
        ),
        root=True,
        source_line=place.line,
    )
