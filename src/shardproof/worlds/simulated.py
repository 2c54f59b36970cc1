"""The simulated world: every rank is a greenlet of one OS thread, and runs until its next collective.

With threads, PyTorch would start one OpenMP pool for each, which compete for the cores. Rank 0 runs to its first
collective, then rank 1, and so on; the last to arrive completes the collective. A sum is accumulated in rank order as
the ranks arrive, so that no more than one rank's partial is alive besides the sum.
"""

from __future__ import annotations

import contextlib
import weakref
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from greenlet import GreenletExit, getcurrent, greenlet

from shardproof.errors import CannotRunError
from shardproof.raised import describe_error
from shardproof.worlds.call import Call, call_all_gather, call_all_reduce, call_reduce_scatter, copy_for_one_rank
from shardproof.worlds.communicator import shard_range
from shardproof.worlds.diagnosis import describe_mismatch, describe_waiting, name_ranks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

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
                for rank, one in enumerate(ranks):
                    value = scheduler.resume(rank, one)
                    if one.dead:
                        results[rank] = value
                    scheduler.check_nobody_ended(rank, ended=results)
                scheduler.collective = None
        finally:
            scheduler.closed = True
            _kill(ranks)
            torch.set_grad_enabled(scheduler.grad)
        return [results[rank] for rank in range(self.size)]


@dataclass(slots=True, kw_only=True)
class _CollectiveInProgress:
    """A collective that not all ranks have joined: how many have, in rank order, and the result so far."""

    call: Call
    arrived: int = 0
    result: Tensor | None = None

    def insert(self, shard: Tensor, start: int) -> None:
        dim = self.call.dim
        assert dim is not None
        if self.result is None:
            self.result = shard.new_empty(self.call.shape)
        self.result.narrow(dim, start, shard.shape[dim]).copy_(shard)
        self.arrived += 1

    def add(self, partial: Tensor) -> None:
        # The first rank's own tensor must not be changed: it is kept, uncopied, until the second rank makes a sum.
        if self.result is None:
            self.result = partial
        elif self.arrived == 1:
            self.result = (self.result + partial).contiguous()
        else:
            self.result += partial
        self.arrived += 1


@dataclass(frozen=True, slots=True, kw_only=True)
class _SharedResult:
    """A result that ranks share; its version grows with every write in place, through any view."""

    tensor: weakref.ref[Tensor]
    version: int
    call: Call


@dataclass(slots=True, kw_only=True)
class _Scheduler:
    """What the ranks of one run share: whose turn it is, and the collective in progress."""

    size: int
    hub: greenlet = field(default_factory=getcurrent)
    grad: bool = field(default_factory=torch.is_grad_enabled)
    collective: _CollectiveInProgress | None = None
    shared: list[_SharedResult] = field(default_factory=list)
    closed: bool = False

    def resume(self, rank: int, one: greenlet) -> Any:
        """Run a rank until its next collective or its end; its result, if it ended."""
        try:
            value = one.switch()
        except _EndRunError as end:
            raise CannotRunError(str(end)) from None
        except Exception as error:
            message = f"rank {rank}: {describe_error(error)}"
            if self.collective is not None and self.collective.arrived:
                message += f"; {describe_waiting(range(self.collective.arrived), self.collective.call)}"
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
            self.hub.throw(_EndRunError(describe_mismatch(range(rank), self.collective.call, rank, call)))
        return self.collective

    def wait(self, collective: _CollectiveInProgress) -> Tensor:
        """Suspend the calling rank until all have joined; then the result."""
        if collective.arrived == self.size:
            self.share(collective)
        # Grad mode belongs to the OS thread: restore it for the other ranks, and set it again for this one.
        grad = torch.is_grad_enabled()
        torch.set_grad_enabled(self.grad)
        self.hub.switch()
        torch.set_grad_enabled(grad)
        assert collective.result is not None
        return collective.result

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

    def check_nobody_ended(self, rank: int, *, ended: Iterable[int]) -> None:
        """Raise if ranks have ended while others wait for them."""
        gone = set(ended)
        if self.collective is not None and gone:
            waiting = [other for other in range(rank + 1) if other not in gone]
            raise CannotRunError(f"{name_ranks(gone)} ended while {describe_waiting(waiting, self.collective.call)}")


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
        return self.scheduler.wait(collective)

    def reduce_scatter(self, partial: Tensor, *, dim: int, name: str) -> Tensor:
        call = call_reduce_scatter(partial, dim=dim, name=name)
        if self.size == 1:
            return copy_for_one_rank(partial)
        start, stop = shard_range(partial.shape[dim], self.rank, self.size)
        collective = self.scheduler.join(self.rank, call)
        with torch.no_grad():
            collective.add(partial)
        del partial
        # A contiguous copy, as in the other worlds: kernels may round differently on other strides.
        return (
            self.scheduler.wait(collective)
            .narrow(dim, start, stop - start)
            .clone(memory_format=torch.contiguous_format)
        )

    def all_reduce(self, partial: Tensor, *, name: str) -> Tensor:
        call = call_all_reduce(partial, name=name)
        if self.size == 1:
            return copy_for_one_rank(partial)
        collective = self.scheduler.join(self.rank, call)
        with torch.no_grad():
            collective.add(partial)
        del partial
        return self.scheduler.wait(collective)


def _kill(ranks: Iterable[greenlet]) -> None:
    """Raise GreenletExit in every rank that has not ended, so that its `finally` blocks run."""
    for one in ranks:
        while not one.dead:
            with contextlib.suppress(Exception):
                one.throw()
