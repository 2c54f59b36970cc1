"""The ledger: what was communicated, by which collective, in which section, and how many bytes a rank received."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Collective = Literal["all_gather", "reduce_scatter", "all_reduce"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One collective of one section.

    `bytes_per_rank` is what the rank with most traffic sends, at the least possible for the collective (a ring reaches
    it): all-gather and reduce-scatter (N-1)/N of the whole, all-reduce twice that.
    """

    section: str
    collective: Collective
    tensor: str
    bytes_per_rank: int


@dataclass(slots=True, kw_only=True)
class Ledger:
    """Entries in the order in which they happened."""

    entries: list[Entry] = field(default_factory=list)

    @property
    def total_bytes_per_rank(self) -> int:
        """The sum over all entries."""
        return sum(entry.bytes_per_rank for entry in self.entries)
