"""Values: what a step was reduced to before it was proved, and which conditions carry the proof to its full size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """What has to hold of the reduced sizes so that a proof of them says something of the full ones.

    Attributes:
        name: one word: 'counts', 'division'.
        meaning: what holds, in a sentence.
        checked: how that was checked, in a sentence.
    """

    name: str
    meaning: str
    checked: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReducedSize:
    """One field of the configuration that was made smaller."""

    name: str
    full: int
    reduced: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reduction:
    """How a configuration was reduced. Every condition holds: one that did not would have been an error.

    Attributes:
        model: the class that was built.
        parameters: how many numbers the parameters of the full model are.
        reduced_parameters: how many those of the reduced one.
        layers: how many layers the full model has.
        kept: the indices of those that were proved.
        sizes: the fields that were made smaller.
        counts: the fields that a plan shares among ranks, as they are at full size: heads, experts.
        conditions: in the order in which they were checked.
    """

    model: str
    parameters: int
    reduced_parameters: int
    layers: int
    kept: tuple[int, ...]
    sizes: tuple[ReducedSize, ...]
    counts: Mapping[str, int]
    conditions: tuple[Condition, ...]
