"""`Communicator`: the collectives and messages of a rank, and how a length is split into shards.

Per-rank code takes a `Communicator` as an argument, never from a global, so the same function runs in a simulated, a
spawned and a launched world.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

from shardproof.errors import CannotRunError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

CollectiveKind = Literal["all_gather", "reduce_scatter", "all_reduce"]
MessageKind = Literal["send", "receive"]


class Communicator(Protocol):
    """One rank's number, the number of ranks, collectives that every rank must call in the same order, and messages.

    The k-th `receive` of a rank from another takes the k-th message that the other sends it. Both must give the same
    name, dtype and shape, and each waits for the other.
    """

    @property
    def rank(self) -> int:
        """This rank's position, 0 <= rank < size."""

    @property
    def size(self) -> int:
        """How many ranks there are."""

    def all_gather(self, shard: Tensor, *, dim: int, total: int, name: str) -> Tensor:
        """Concatenate every rank's shard along `dim`; every rank gets the full tensor.

        Args:
            shard: this rank's part: `shard_sizes(total, size)[rank]` long along `dim`, alike in the other dims.
            dim: the tensor dimension that is split.
            total: the length of the full tensor along `dim`.
            name: what is gathered, for the ledger and for error messages.
        """

    def reduce_scatter(self, partial: Tensor, *, dim: int, name: str) -> Tensor:
        """Sum every rank's `partial`, then keep this rank's shard of the sum along `dim` (see `shard_sizes`)."""

    def all_reduce(self, partial: Tensor, *, name: str) -> Tensor:
        """Sum every rank's `partial`; every rank gets the sum. The argument is not changed."""

    def send(self, tensor: Tensor, *, to: int, name: str) -> None:
        """Send one tensor to another rank, and wait until it receives it. The argument is not changed.

        Args:
            tensor: what is sent.
            to: the rank that receives it, not this one.
            name: what is sent, for the ledger and for error messages.
        """

    def receive(self, into: Tensor, *, source: int, name: str) -> Tensor:
        """Wait for the next message of another rank, and write it into `into`, which is returned.

        Args:
            into: of the message's shape and dtype.
            source: the rank that sends it, not this one.
            name: what is received.
        """


def nonnegative_dim(shape: Sequence[int], dim: int, *, where: str = "") -> int:
    """The same dim counted from the front.

    Args:
        shape: of a tensor.
        dim: one of its dims; negative ones count from the end.
        where: begins the error's message.

    Raises:
        CannotRunError: there is no such dim.
    """
    if not -len(shape) <= dim < len(shape):
        raise CannotRunError(f"{where}a tensor of shape {list(shape)} has no dim {dim}; it has {len(shape)}")
    return dim % len(shape)


def shard_sizes(total: int, size: int) -> tuple[int, ...]:
    """How long each rank's shard of `total` is: as even as possible; the first `total % size` ranks hold one more.

    >>> shard_sizes(7, 3)
    (3, 2, 2)
    """
    return tuple(total // size + (rank < total % size) for rank in range(size))


def shard_range(total: int, rank: int, size: int) -> tuple[int, int]:
    """The half-open interval of `range(total)` that `rank` of `size` holds.

    >>> [shard_range(7, rank, 3) for rank in range(3)]
    [(0, 3), (3, 5), (5, 7)]
    """
    base, longer = divmod(total, size)
    start = rank * base + min(rank, longer)
    return start, start + base + (rank < longer)
