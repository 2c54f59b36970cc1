"""The ledger: what was communicated, by which collective, in which section, and how many bytes went through a rank.

`LedgeredCommunicator` delegates each collective and message, and adds an entry for it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from shardproof.worlds.communicator import CollectiveKind, Communicator


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One collective of one section.

    `bytes_per_rank` is the least that must pass through the busiest rank in one direction: the rank with the shortest
    shard must receive the rest of an all-gather, and send the rest of a reduce-scatter. So each counts the full tensor
    less the shortest shard, which is (N-1)/N of the tensor where N divides it, and an all-reduce, which is one of each,
    counts twice that. A ring algorithm reaches it; padded uneven shards move more. A world of one rank communicates
    nothing.
    """

    section: str
    collective: CollectiveKind
    tensor: str
    bytes_per_rank: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message of one section: the ranks that it goes from and to, and how many bytes it has."""

    section: str
    tensor: str
    source: int
    destination: int
    bytes: int


@dataclass(slots=True, kw_only=True)
class Ledger:
    """Collectives, messages sent and messages received, each in the order in which they happened."""

    entries: list[Entry] = field(default_factory=list)
    sent: list[Message] = field(default_factory=list)
    received: list[Message] = field(default_factory=list)

    @property
    def total_bytes_per_rank(self) -> int:
        """The sum over all collectives, and over the messages of the direction in which this rank has more."""
        messages = max(sum(one.bytes for one in self.sent), sum(one.bytes for one in self.received))
        return sum(entry.bytes_per_rank for entry in self.entries) + messages


@dataclass(slots=True, kw_only=True)
class LedgeredCommunicator:
    """Another `Communicator`, and a ledger of the collectives and messages called on it.

    Every rank's ledger has the same collectives, because an entry depends on the full tensor and not on the rank; the
    messages are the rank's own. Set `section` as the step goes on. A world of one rank communicates nothing, and its
    ledger stays empty.
    """

    inner: Communicator
    ledger: Ledger = field(default_factory=Ledger)
    section: str = ""

    @property
    def rank(self) -> int:
        return self.inner.rank

    @property
    def size(self) -> int:
        return self.inner.size

    def all_gather(self, shard: Tensor, *, dim: int, total: int, name: str) -> Tensor:
        elements = (total - total // self.size) * _count_slices(shard, dim)
        self._add_entry("all_gather", name, elements * shard.element_size())
        return self.inner.all_gather(shard, dim=dim, total=total, name=name)

    def reduce_scatter(self, partial: Tensor, *, dim: int, name: str) -> Tensor:
        total = partial.shape[dim]
        elements = (total - total // self.size) * _count_slices(partial, dim)
        self._add_entry("reduce_scatter", name, elements * partial.element_size())
        # Popped from a list: a name in this frame would keep every rank's partial alive while they wait.
        handed = [partial]
        del partial
        return self.inner.reduce_scatter(handed.pop(), dim=dim, name=name)

    def all_reduce(self, partial: Tensor, *, name: str) -> Tensor:
        total = partial.numel()
        self._add_entry("all_reduce", name, 2 * (total - total // self.size) * partial.element_size())
        handed = [partial]
        del partial
        return self.inner.all_reduce(handed.pop(), name=name)

    def send(self, tensor: Tensor, *, to: int, name: str) -> None:
        self.ledger.sent.append(self._message(tensor, source=self.rank, destination=to, name=name))
        self.inner.send(tensor, to=to, name=name)

    def receive(self, into: Tensor, *, source: int, name: str) -> Tensor:
        self.ledger.received.append(self._message(into, source=source, destination=self.rank, name=name))
        return self.inner.receive(into, source=source, name=name)

    def _message(self, tensor: Tensor, *, source: int, destination: int, name: str) -> Message:
        size = tensor.numel() * tensor.element_size()
        return Message(section=self.section, tensor=name, source=source, destination=destination, bytes=size)

    def _add_entry(self, collective: CollectiveKind, name: str, count: int) -> None:
        if self.size > 1:
            entry = Entry(section=self.section, collective=collective, tensor=name, bytes_per_rank=count)
            self.ledger.entries.append(entry)


def _count_slices(tensor: Tensor, dim: int) -> int:
    """How many elements there are at one index of `dim`."""
    return prod(length for other, length in enumerate(tensor.shape) if other != dim % tensor.ndim)
