"""`NumberBranch`: a comparison of numbers that a program read from residues, on which it may branch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class NumberBranch:
    """One way that was taken.

    Attributes:
        line: the user's line that compares; may be empty.
        holds: whether the comparison was said to hold.
        limited: the reference limits the same number to the same limit, and the comparison was decided as where the
            number is within it: always this way. Otherwise the answer is drawn, in each trial anew.
    """

    line: str
    holds: bool
    limited: bool
