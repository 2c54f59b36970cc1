"""Divisions by zero: by chance modulo the prime, or the program's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shardproof.exact.engine.mode import ExactArithmetic


def say_zero_divisions(draws: Sequence[ExactArithmetic]) -> str:
    """Whether the divisions by zero in several runs of one program are its own, in words; '' if there were none.

    Args:
        draws: runs of the same program, each with a seed of its own.

    Raises:
        ValueError: none are given.
    """
    if not draws:
        raise ValueError("no draws are given; run the program under at least one seed")
    found = [[str(location) for location in draw.zero_divisions] for draw in draws]
    always = [line for line in dict.fromkeys(found[0]) if all(line in lines for lines in found)]
    if always and len(draws) > 1:
        where = "; ".join(always)
        return f"the program itself divides by zero, in each of {len(draws)} draws: {where}. Another seed will not help"
    void = sum(bool(lines) for lines in found)
    if not void:
        return ""
    where = "; ".join(dict.fromkeys(line for lines in found for line in lines))
    return f"{void} of {len(draws)} draws divide by zero modulo their prime: {where}. Draw again with another seed"
