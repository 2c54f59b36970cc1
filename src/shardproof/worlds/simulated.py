"""The simulated world: every rank is a greenlet of one OS thread, and runs until its next collective.

Threads would give PyTorch one OpenMP pool each, and the ranks would fight over the cores; greenlets take turns.
Rank 0 runs to its first collective, then rank 1, and so on; the last to arrive completes the collective. A sum grows in
rank order as the ranks arrive, so that no more than one rank's partial is alive besides the sum.
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
from shardproof.worlds.call import Call, call_all_gather, call_all_reduce, call_reduce_scatter, copy_alone
from shardproof.worlds.communicator import shard_range
from shardproof.worlds.diagnosis import name_ranks, say_parted, say_waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Tensor

    from shardproof.worlds.communicator import Communicator
    from shardproof.worlds.world import R, Ts


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedWorld:
    """All ranks in this process; see `World`.

    The ranks share the arguments, and the one tensor that an all-gather or all-reduce returns; a rank that writes into
    it in place is found and named. Dispatch modes are entered around `run`, never inside `fn` across a collective.
    """

    size: int

    def __post_init__(self) -> None:
        if self.size < 1:
            raise CannotRunError(f"a world of {self.size} ranks was asked for; give at least 1")

    @property
    def speaks(self) -> bool:
        return True

    def run(self, fn: Callable[[Communicator, *Ts], R], *args: *Ts) -> list[R]:
        table = _Table(size=self.size)
        comms = [_SimulatedCommunicator(rank=rank, table=table) for rank in range(self.size)]
        # A rank's first turn starts `fn`; the later ones go on from its collective.
        ranks = [greenlet(partial(fn, comm, *args)) for comm in comms]
        results: dict[int, R] = {}
        try:
            while len(results) < self.size:
                for rank, one in enumerate(ranks):
                    value = table.give_turn(rank, one)
                    if one.dead:
                        results[rank] = value
                    table.check_company(rank, ended=results)
                table.meeting = None
        finally:
            table.closed = True
            _kill(ranks)
            torch.set_grad_enabled(table.grad)
        return [results[rank] for rank in range(self.size)]


@dataclass(slots=True, kw_only=True)
class _Meeting:
    """A collective under way: how many have arrived, in rank order, and what they have put together so far."""

    call: Call
    arrived: int = 0
    whole: Tensor | None = None

    def place(self, shard: Tensor, start: int) -> None:
        dim = self.call.dim
        assert dim is not None
        if self.whole is None:
            self.whole = shard.new_empty(self.call.shape)
        self.whole.narrow(dim, start, shard.shape[dim]).copy_(shard)
        self.arrived += 1

    def add(self, partial: Tensor) -> None:
        # The first rank's own tensor is not ours to write into: it is kept, not copied, until the second makes a sum.
        if self.whole is None:
            self.whole = partial
        elif self.arrived == 1:
            self.whole = (self.whole + partial).contiguous()
        else:
            self.whole += partial
        self.arrived += 1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shared:
    """A result that ranks hold; its version grows with every write in place, through any view."""

    tensor: weakref.ref[Tensor]
    version: int
    call: Call


@dataclass(slots=True, kw_only=True)
class _Table:
    """What the ranks of one run share: the collective under way, and the turns."""

    size: int
    hub: greenlet = field(default_factory=getcurrent)
    grad: bool = field(default_factory=torch.is_grad_enabled)
    meeting: _Meeting | None = None
    shared: list[_Shared] = field(default_factory=list)
    closed: bool = False

    def give_turn(self, rank: int, one: greenlet) -> Any:
        """Let a rank run until its next collective or its end; what it returns at its end."""
        try:
            value = one.switch()
        except _EndRunError as end:
            raise CannotRunError(str(end)) from None
        except Exception as error:
            told = f"rank {rank}: " + (
                str(error) if isinstance(error, CannotRunError) else f"{type(error).__name__}: {error}"
            )
            if self.meeting is not None and self.meeting.arrived:
                told += f"; {say_waiting(range(self.meeting.arrived), self.meeting.call)}"
            raise CannotRunError(told) from error
        self.check_unwritten(rank)
        return value

    def meet(self, rank: int, call: Call) -> _Meeting:
        """The collective under way, which the first to arrive opens and every other must call alike."""
        if self.closed:
            raise GreenletExit
        if self.meeting is None:
            self.meeting = _Meeting(call=call)
        elif self.meeting.call != call:
            self.hub.throw(_EndRunError(say_parted(range(rank), self.meeting.call, rank, call)))
        return self.meeting

    def wait(self, meeting: _Meeting) -> Tensor:
        """Give the turn away until all have arrived; then what they put together."""
        if meeting.arrived == self.size:
            self.share(meeting)
        # Whether autograd records is a switch of the OS thread: a rank leaves it to the others as it found it.
        grad = torch.is_grad_enabled()
        torch.set_grad_enabled(self.grad)
        self.hub.switch()
        torch.set_grad_enabled(grad)
        assert meeting.whole is not None
        return meeting.whole

    def share(self, meeting: _Meeting) -> None:
        """Remember a finished result, to find out if a rank writes into it."""
        result = meeting.whole
        assert result is not None
        if not result.is_inference():  # an inference tensor counts no versions
            version = result._version  # noqa: SLF001 - what autograd itself goes by; there is no public name for it
            self.shared.append(_Shared(tensor=weakref.ref(result), version=version, call=meeting.call))

    def check_unwritten(self, rank: int) -> None:
        """Find a result that the rank which just ran has written into."""
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

    def check_company(self, rank: int, *, ended: Iterable[int]) -> None:
        """Find ranks that have ended while others wait for them."""
        gone = set(ended)
        if self.meeting is not None and gone:
            waiting = [other for other in range(rank + 1) if other not in gone]
            raise CannotRunError(f"{name_ranks(gone)} ended while {say_waiting(waiting, self.meeting.call)}")


class _EndRunError(Exception):
    """Thrown from a rank into the hub, past any handler in the rank's own code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _SimulatedCommunicator:
    """See `Communicator`. Each method drops its argument before it waits, so that a caller's temporary is freed."""

    rank: int
    table: _Table

    @property
    def size(self) -> int:
        return self.table.size

    def all_gather(self, shard: Tensor, *, dim: int, total: int, name: str) -> Tensor:
        call = call_all_gather(shard, dim=dim, total=total, name=name, rank=self.rank, size=self.size)
        if self.size == 1:
            return copy_alone(shard)
        meeting = self.table.meet(self.rank, call)
        with torch.no_grad():
            meeting.place(shard, shard_range(total, self.rank, self.size)[0])
        del shard
        return self.table.wait(meeting)

    def reduce_scatter(self, partial: Tensor, *, dim: int, name: str) -> Tensor:
        call = call_reduce_scatter(partial, dim=dim, name=name)
        if self.size == 1:
            return copy_alone(partial)
        start, stop = shard_range(partial.shape[dim], self.rank, self.size)
        meeting = self.table.meet(self.rank, call)
        with torch.no_grad():
            meeting.add(partial)
        del partial
        # A contiguous copy, as the other worlds give: kernels may round otherwise on other strides.
        return self.table.wait(meeting).narrow(dim, start, stop - start).clone(memory_format=torch.contiguous_format)

    def all_reduce(self, partial: Tensor, *, name: str) -> Tensor:
        call = call_all_reduce(partial, name=name)
        if self.size == 1:
            return copy_alone(partial)
        meeting = self.table.meet(self.rank, call)
        with torch.no_grad():
            meeting.add(partial)
        del partial
        return self.table.wait(meeting)


def _kill(ranks: Iterable[greenlet]) -> None:
    """End every rank that has not ended, with GreenletExit where it stands, so that its `finally` blocks run."""
    for one in ranks:
        while not one.dead:
            with contextlib.suppress(Exception):
                one.throw()
