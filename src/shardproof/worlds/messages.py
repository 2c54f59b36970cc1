"""Messages between ranks of one process: each goes to the receive of its source, destination and tag, in order."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING

from shardproof.errors import CannotRunError
from shardproof.worlds.diagnosis import describe_misfit

if TYPE_CHECKING:
    from torch import Tensor

    from shardproof.worlds.call import Call


def describe(tensors: list[Tensor]) -> str:
    """'float32 [3, 4]', of up to two tensors."""
    return ", ".join(f"{str(x.dtype).removeprefix('torch.')} {list(x.shape)}" for x in tensors[:2])


def fit(sent: Tensor, received: Tensor) -> bool:
    """Whether a message may be received into a tensor: the same dtype and shape, or one of them flat."""
    if sent.dtype != received.dtype:
        return False
    flat = 1 in (sent.ndim, received.ndim)
    return sent.shape == received.shape or (flat and prod(sent.shape) == prod(received.shape))


@dataclass(slots=True, kw_only=True, eq=False)
class Send:
    """One message, by global ranks; it is done once it is received. `call` is that of a `Communicator`."""

    source: int
    destination: int
    tag: int
    tensor: Tensor
    call: Call | None = None
    done: bool = False

    def __str__(self) -> str:
        if self.call is not None:
            return str(self.call)
        return f"send of {describe([self.tensor])} to rank {self.destination} (tag {self.tag})"


@dataclass(slots=True, kw_only=True, eq=False)
class Receive:
    """One receive, by global ranks; `source` None takes a message from any rank, and becomes that rank."""

    source: int | None
    destination: int
    tag: int
    tensor: Tensor
    call: Call | None = None
    value: Tensor | None = None

    @property
    def done(self) -> bool:
        """Whether its message has come."""
        return self.value is not None

    def __str__(self) -> str:
        if self.call is not None:
            return str(self.call)
        source = "any rank" if self.source is None else f"rank {self.source}"
        return f"receive of {describe([self.tensor])} from {source} (tag {self.tag})"


@dataclass(slots=True, kw_only=True)
class Mailbox:
    """The sends and receives of one group that have not met, in the order of the calls."""

    sends: list[Send] = field(default_factory=list)
    receives: list[Receive] = field(default_factory=list)

    def send(self, message: Send) -> None:
        """Hand the message to the first receive that takes it, or keep it.

        Raises:
            CannotRunError: the receive is of another shape or dtype.
        """
        for receive in self.receives:
            if _meet(message, receive):
                self.receives.remove(receive)
                _deliver(message, receive)
                return
        self.sends.append(message)

    def receive(self, receive: Receive) -> None:
        """Take the first message for this receive, or wait for one.

        Raises:
            CannotRunError: the message is of another shape or dtype.
        """
        for message in self.sends:
            if _meet(message, receive):
                self.sends.remove(message)
                _deliver(message, receive)
                return
        self.receives.append(receive)

    def check_empty(self) -> None:
        """Raise if a message was never received, or a receive never got one.

        Raises:
            CannotRunError: with each rank's call.
        """
        left = [f"rank {one.source}'s {one}" for one in self.sends]
        left += [f"rank {one.destination}'s {one}" for one in self.receives]
        if left:
            raise CannotRunError(f"the ranks ended, but nothing matches {'; '.join(left)}")


def _meet(message: Send, receive: Receive) -> bool:
    return (
        message.destination == receive.destination
        and message.tag == receive.tag
        and receive.source in (None, message.source)
    )


def _deliver(message: Send, receive: Receive) -> None:
    if message.call is not None and receive.call is not None:
        fits = message.call.carries(receive.call)
    else:
        fits = fit(message.tensor, receive.tensor)
    if not fits:
        raise CannotRunError(describe_misfit(message.source, message, receive.destination, receive))
    receive.value = message.tensor.detach().clone().view(receive.tensor.shape)
    receive.source = message.source
    message.done = True
