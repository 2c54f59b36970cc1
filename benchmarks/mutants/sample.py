"""Fixed choices among many configurations: the same in every run, and some of each kind."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SHARE, LEAST = 12, 3  # of `make mutants-fast`: one in so many of each kind, and no fewer than so many


def evenly(names: Sequence[str], count: int | None) -> list[str]:
    """So many of them, evenly spaced from the first on; all if there are no more, or no count."""
    if count is None or count >= len(names):
        return list(names)
    return [names[i * len(names) // count] for i in range(count)]


def spread(every: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Of each kind its share."""
    return {kind: evenly(names, max(LEAST, len(names) // SHARE)) for kind, names in every.items()}
