"""A communicator that keeps books: it delegates each collective and writes it into a ledger."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING

from shardproof.worlds.ledger import Entry, Ledger

if TYPE_CHECKING:
    from torch import Tensor

    from shardproof.worlds.communicator import Communicator
    from shardproof.worlds.ledger import Collective


@dataclass(slots=True, kw_only=True)
class LedgeredCommunicator:
    """Another `Communicator`, and a ledger of what it was asked for.

    Every rank's ledger is the same, because an entry depends on the whole and not on the rank. Set `section` as the
    step goes on. A world of one rank communicates nothing, and nothing is entered.
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
        self._enter("all_gather", name, elements * shard.element_size())
        return self.inner.all_gather(shard, dim=dim, total=total, name=name)

    def reduce_scatter(self, partial: Tensor, *, dim: int, name: str) -> Tensor:
        total = partial.shape[dim]
        elements = (total - total // self.size) * _count_slices(partial, dim)
        self._enter("reduce_scatter", name, elements * partial.element_size())
        # Handed on, not kept: a name in this frame would keep every rank's partial alive while they wait.
        handed = [partial]
        del partial
        return self.inner.reduce_scatter(handed.pop(), dim=dim, name=name)

    def all_reduce(self, partial: Tensor, *, name: str) -> Tensor:
        total = partial.numel()
        self._enter("all_reduce", name, 2 * (total - total // self.size) * partial.element_size())
        handed = [partial]
        del partial
        return self.inner.all_reduce(handed.pop(), name=name)

    def _enter(self, collective: Collective, name: str, count: int) -> None:
        if self.size > 1:
            entry = Entry(section=self.section, collective=collective, tensor=name, bytes_per_rank=count)
            self.ledger.entries.append(entry)


def _count_slices(tensor: Tensor, dim: int) -> int:
    """How many elements lie side by side at one index of `dim`."""
    return prod(length for other, length in enumerate(tensor.shape) if other != dim % tensor.ndim)
