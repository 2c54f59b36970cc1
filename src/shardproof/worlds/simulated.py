"""The simulated world: every rank is a greenlet of one OS thread, and runs until it waits for other ranks.

With threads, PyTorch would start one OpenMP pool for each, which compete for the cores. Rank 0 runs to its first
collective, then rank 1, and so on; the last to arrive completes the collective. A sum is accumulated in rank order as
the ranks arrive, so that no more than one rank's partial is alive besides the sum. A rank that sends waits until the
message is received. Where every rank waits and nothing can come, that is a deadlock.
"""

from __future__ import annotations

import contextlib
import weakref
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from greenlet import GreenletExit, getcurrent, greenlet

from shardproof.errors import CannotRunError
from shardproof.raised import describe_error
from shardproof.worlds.call import (
    Call,
    call_all_gather,
    call_all_reduce,
    call_receive,
    call_reduce_scatter,
    call_send,
    copy_for_one_rank,
)
from shardproof.worlds.communicator import shard_range
from shardproof.worlds.diagnosis import (
    describe_deadlock,
    describe_mismatch,
    describe_waiting,
    describe_waits,
    name_ranks,
)
from shardproof.worlds.messages import Mailbox, Receive, Send

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from torch import Tensor

    from shardproof.worlds.communicator import Communicator
    from shardproof.worlds.world import R, Ts


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedWorld:
    """All ranks in this process; see `World`.

    The ranks share the arguments, and the one tensor that an all-gather or all-reduce returns; a rank that writes into
    it in place is an error. Enter dispatch modes around `run`, never inside `fn` across a collective.
    """

    size: int

    def __post_init__(self) -> None:
        if self.size < 1:
            raise CannotRunError(f"a world of {self.size} ranks was asked for; give at least 1")

    @property
    def speaks(self) -> bool:
        return True

    def run(self, fn: Callable[[Communicator, *Ts], R], *args: *Ts) -> list[R]:
        scheduler = _Scheduler(size=self.size)
        comms = [_SimulatedCommunicator(rank=rank, scheduler=scheduler) for rank in range(self.size)]
        # A rank's first turn starts `fn`; later turns resume it in its collective.
        ranks = [greenlet(partial(fn, comm, *args)) for comm in comms]
        results: dict[int, R] = {}
        try:
            while len(results) < self.size:
                for rank in scheduler.take_turns(ended=results):
                    value = scheduler.resume(rank, ranks[rank])
                    if ranks[rank].dead:
                        results[rank] = value
                    scheduler.check_nobody_ended(ended=results)
        finally:
            scheduler.closed = True
            _kill(ranks)
            torch.set_grad_enabled(scheduler.grad)
        return [results[rank] for rank in range(self.size)]


@dataclass(slots=True, kw_only=True)
class _CollectiveInProgress:
    """A collective that not all ranks have joined: which have, and the result so far."""

    call: Call
    joined: set[int] = field(default_factory=set)
    early: dict[int, Tensor] = field(default_factory=dict)  # partials of ranks before which another has yet to come
    summed: int = 0
    result: Tensor | None = None

    def insert(self, shard: Tensor, start: int) -> None:
        dim = self.call.dim
        assert dim is not None
        if self.result is None:
            self.result = shard.new_empty(self.call.shape)
        self.result.narrow(dim, start, shard.shape[dim]).copy_(shard)

    def add(self, rank: int, partial: Tensor) -> None:
        """Sum in rank order, whatever the order in which messages let the ranks arrive."""
        self.early[rank] = partial
        while self.summed in self.early:
            self._add_next(self.early.pop(self.summed))
            self.summed += 1

    def _add_next(self, partial: Tensor) -> None:
        # The first rank's own tensor must not be changed: it is kept, uncopied, until the second rank makes a sum.
        if self.result is None:
            self.result = partial
        elif self.summed == 1:
            self.result = (self.result + partial).contiguous()
        else:
            self.result += partial


@dataclass(frozen=True, slots=True, kw_only=True)
class _SharedResult:
    """A result that ranks share; its version grows with every write in place, through any view."""

    tensor: weakref.ref[Tensor]
    version: int
    call: Call


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wait:
    """In which call a rank waits, and whether it can go on."""

    call: Call
    done: Callable[[], bool]


@dataclass(slots=True, kw_only=True)
class _Scheduler:
    """What the ranks of one run share: what each waits for, the collective in progress, and messages on their way."""

    size: int
    hub: greenlet = field(default_factory=getcurrent)
    grad: bool = field(default_factory=torch.is_grad_enabled)
    collective: _CollectiveInProgress | None = None
    mailbox: Mailbox = field(default_factory=Mailbox)
    waits: dict[int, _Wait] = field(default_factory=dict)
    shared: list[_SharedResult] = field(default_factory=list)
    closed: bool = False

    def take_turns(self, *, ended: Collection[int]) -> Iterator[int]:
        """Yield each rank, in rank order, that can go on.

        Raises:
            CannotRunError: there is none.
        """
        moved = False
        for rank in range(self.size):
            wait = self.waits.get(rank)
            if rank not in ended and (wait is None or wait.done()):
                moved = True
                yield rank
        if not moved:
            raise CannotRunError(describe_deadlock({rank: wait.call for rank, wait in self.waits.items()}, ended))

    def resume(self, rank: int, one: greenlet) -> Any:
        """Run a rank until it waits, or to its end; its result, if it ended."""
        try:
            value = one.switch()
        except _EndRunError as end:
            raise CannotRunError(str(end)) from None
        except Exception as error:
            waiting = {other: wait.call for other, wait in self.waits.items() if not wait.done()}
            message = f"rank {rank}: {describe_error(error)}" + (f"; {describe_waits(waiting)}" if waiting else "")
            raise CannotRunError(message) from error
        self.check_unwritten(rank)
        return value

    def join(self, rank: int, call: Call) -> _CollectiveInProgress:
        """The collective in progress: the first rank starts it, and every other must make the same call."""
        if self.closed:
            raise GreenletExit
        if self.collective is None:
            self.collective = _CollectiveInProgress(call=call)
        elif self.collective.call != call:
            self.end(describe_mismatch(self.collective.joined, self.collective.call, rank, call))
        self.collective.joined.add(rank)
        return self.collective

    def wait(self, rank: int, collective: _CollectiveInProgress) -> Tensor:
        """Suspend the calling rank until all have joined; then the result."""
        if len(collective.joined) == self.size:
            self.share(collective)
            self.collective = None
        self.suspend(rank, _Wait(call=collective.call, done=lambda: len(collective.joined) == self.size))
        assert collective.result is not None
        return collective.result

    def exchange(self, rank: int, end: Send | Receive, call: Call) -> None:
        """Put one end of a message into the mailbox, and suspend the calling rank until the other end is there."""
        if self.closed:
            raise GreenletExit
        try:
            if isinstance(end, Send):
                self.mailbox.send(end)
            else:
                self.mailbox.receive(end)
        except CannotRunError as misfit:
            self.end(str(misfit))
        if not end.done:
            self.suspend(rank, _Wait(call=call, done=lambda: end.done))

    def suspend(self, rank: int, wait: _Wait) -> None:
        """Let the other ranks run until the calling one can go on."""
        self.waits[rank] = wait
        # Grad mode belongs to the OS thread: restore it for the other ranks, and set it again for this one.
        grad = torch.is_grad_enabled()
        torch.set_grad_enabled(self.grad)
        self.hub.switch()
        torch.set_grad_enabled(grad)
        del self.waits[rank]

    def end(self, reason: str) -> NoReturn:
        """End the run from the calling rank, which does not come back."""
        self.hub.throw(_EndRunError(reason))
        raise GreenletExit

    def share(self, collective: _CollectiveInProgress) -> None:
        """Remember a finished result, to detect a rank that writes into it."""
        result = collective.result
        assert result is not None
        if not result.is_inference():  # inference tensors have no version counter
            version = result._version  # noqa: SLF001 - autograd's own counter; there is no public name
            self.shared.append(_SharedResult(tensor=weakref.ref(result), version=version, call=collective.call))

    def check_unwritten(self, rank: int) -> None:
        """Raise if the rank that just ran has written into a shared result."""
        alive = []
        for one in self.shared:
            tensor = one.tensor()
            if tensor is None:
                continue
            if tensor._version != one.version:  # noqa: SLF001
                raise CannotRunError(
                    f"rank {rank} wrote in place into the result of {one.call}, which simulated ranks share: "
                    "use an operation that is not in place, or write into a clone"
                )
            alive.append(one)
        self.shared = alive

    def check_nobody_ended(self, *, ended: Collection[int]) -> None:
        """Raise if ranks have ended while others wait for them in a collective."""
        if self.collective is not None and ended:
            waiting = describe_waiting(self.collective.joined, self.collective.call)
            raise CannotRunError(f"{name_ranks(ended)} ended while {waiting}")


class _EndRunError(Exception):
    """Thrown from a rank into the hub, so that no handler in the rank's own code catches it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _SimulatedCommunicator:
    """See `Communicator`. Each method deletes its argument before it waits, so that a caller's temporary is freed."""

    rank: int
    scheduler: _Scheduler

    @property
    def size(self) -> int:
        return self.scheduler.size

    def all_gather(self, shard: Tensor, *, dim: int, total: int, name: str) -> Tensor:
        call = call_all_gather(shard, dim=dim, total=total, name=name, rank=self.rank, size=self.size)
        if self.size == 1:
            return copy_for_one_rank(shard)
        collective = self.scheduler.join(self.rank, call)
        with torch.no_grad():
            collective.insert(shard, shard_range(total, self.rank, self.size)[0])
        del shard
        return self.scheduler.wait(self.rank, collective)

    def reduce_scatter(self, partial: Tensor, *, dim: int, name: str) -> Tensor:
        call = call_reduce_scatter(partial, dim=dim, name=name)
        if self.size == 1:
            return copy_for_one_rank(partial)
        start, stop = shard_range(partial.shape[dim], self.rank, self.size)
        collective = self.scheduler.join(self.rank, call)
        with torch.no_grad():
            collective.add(self.rank, partial)
        del partial
        # A contiguous copy, as in the other worlds: kernels may round differently on other strides.
        return (
            self.scheduler.wait(self.rank, collective)
            .narrow(dim, start, stop - start)
            .clone(memory_format=torch.contiguous_format)
        )

    def all_reduce(self, partial: Tensor, *, name: str) -> Tensor:
        call = call_all_reduce(partial, name=name)
        if self.size == 1:
            return copy_for_one_rank(partial)
        collective = self.scheduler.join(self.rank, call)
        with torch.no_grad():
            collective.add(self.rank, partial)
        del partial
        return self.scheduler.wait(self.rank, collective)

    def send(self, tensor: Tensor, *, to: int, name: str) -> None:
        call = call_send(tensor, to=to, name=name, rank=self.rank, size=self.size)
        message = Send(source=self.rank, destination=to, tag=0, tensor=tensor, call=call)
        self.scheduler.exchange(self.rank, message, call)

    def receive(self, into: Tensor, *, source: int, name: str) -> Tensor:
        call = call_receive(into, source=source, name=name, rank=self.rank, size=self.size)
        receive = Receive(source=source, destination=self.rank, tag=0, tensor=into, call=call)
        self.scheduler.exchange(self.rank, receive, call)
        assert receive.value is not None
        with torch.no_grad():
            return into.copy_(receive.value)


def _kill(ranks: Iterable[greenlet]) -> None:
    """Raise GreenletExit in every rank that has not ended, so that its `finally` blocks run."""
    for one in ranks:
        while not one.dead:
            with contextlib.suppress(Exception):
                one.throw()
