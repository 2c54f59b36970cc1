"""The ledger: what was communicated, by which collective, in which section, and how many bytes went through a rank."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Collective = Literal["all_gather", "reduce_scatter", "all_reduce"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One collective of one section.

    `bytes_per_rank` is what goes through the busiest rank in one direction, at the least possible for the collective:
    whoever holds the shortest shard must receive the rest of an all-gather and send the rest of a reduce-scatter. So
    each counts the whole less the shortest shard, which is (N-1)/N of the whole when it divides evenly, and an
    all-reduce, one of each, counts twice that. A ring reaches it; a library may move more, as ours does when it pads
    uneven shards. A world of one rank communicates nothing.
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
