"""The process group of ranks that are threads: calls that take effect when they are waited for.

A call never waits: it hands over the rank's tensors and returns a `Work`, whose `wait` lets the other ranks run until
all have made the same call, and then copies the result into the caller's tensors. PyTorch's synchronous functions call
`wait` at once. The k-th collective of a rank on a group belongs to the k-th of every other rank. A message goes to the
receive of the same source, destination and tag, in the order of the calls; a send is done when it is received.
"""

from __future__ import annotations

import threading
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from shardproof.errors import CannotRunError
from shardproof.worlds import thread_collectives as computed
from shardproof.worlds.in_flight import CallInFlight, WorkInFlight, calls_in_flight, overlap
from shardproof.worlds.messages import Mailbox, Receive, Send, describe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from shardproof.worlds.turns import Turns

    Compute = Callable[[list[list[Tensor]]], list[Sequence[Tensor]]]

# The sizes of their tensors may differ between ranks.
_UNEVEN = frozenset({"AllToAll", "AllToAllBase", "AllGather", "Scatter", "Gather"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadCall:
    """One call of a rank, for the trace.

    Attributes:
        kind: 'AllReduce SUM', 'Send'.
        ranks: of the group; of a message its source (-1: any) and destination.
        tensors: what the rank gave and what it gets.
        asynchronous: whether the program waits for it by itself; False for messages.
    """

    kind: str
    ranks: tuple[int, ...]
    tensors: Sequence[Tensor]
    asynchronous: bool


@dataclass(slots=True, kw_only=True)
class Exchanges:
    """What the ranks of one world have called, and share."""

    turns: Turns
    collectives: dict[tuple[Any, int], _Collective] = field(default_factory=dict)
    mailboxes: dict[Any, Mailbox] = field(default_factory=dict)

    def check_messages(self) -> None:
        """Raise if a message was never received, or a receive never got one."""
        for mailbox in self.mailboxes.values():
            mailbox.check_empty()


@dataclass(slots=True, kw_only=True)
class _Collective:
    """One collective of one group, and what its ranks have given so far, by their rank in the group."""

    ranks: tuple[int, ...]
    given: dict[int, list[Tensor]] = field(default_factory=dict)
    calls: dict[int, tuple[str, str]] = field(default_factory=dict)
    results: list[Sequence[Tensor]] | None = None

    def join(self, rank: int, kind: str, given: list[Tensor], compute: Compute) -> None:
        """Take what one rank gives; with the last rank the result is computed."""
        self.given[rank] = given
        self.calls[rank] = (kind, f"{kind} of {describe(list(given))}" if given else kind)
        if len(self.given) < len(self.ranks):
            return
        self._check_alike()
        with torch.no_grad():
            self.results = compute([self.given[rank] for rank in range(len(self.ranks))])
        self.given.clear()

    def _check_alike(self) -> None:
        kinds = {kind for kind, _ in self.calls.values()}
        calls = Counter(call for _, call in self.calls.values())
        if len(kinds) > 1 or (len(calls) > 1 and not kinds <= _UNEVEN):
            listed = "; ".join(f"rank {self.ranks[rank]} is in {self.calls[rank][1]}" for rank in sorted(self.calls))
            raise CannotRunError(f"the ranks are in different collectives: {listed}")


_thread = threading.local()


def join_exchanges(rank: int, exchanges: Exchanges) -> None:
    """Make the calling thread a rank."""
    _thread.rank, _thread.exchanges = rank, exchanges


def is_thread_of_world() -> bool:
    """Whether the calling thread is a rank."""
    return hasattr(_thread, "exchanges")


@contextmanager
def thread_calls_traced(add: Callable[[ThreadCall], None]) -> Iterator[None]:
    """Inside, call `add` for each collective and message of the calling rank, when it is called; barriers are none."""
    before, _thread.trace = getattr(_thread, "trace", None), add
    try:
        yield
    finally:
        _thread.trace = before


class ThreadGroup(dist.ProcessGroup):
    """The interface that `torch.distributed` calls, with its names, of one rank."""

    def __init__(self, rank: int, size: int, world: Any) -> None:
        super().__init__(rank, size)  # type: ignore[call-arg]  # the store is not listed as optional
        self._world = world
        self._count = 0
        # The backward of a thread must run in it, not in the autograd engine's threads.
        self._in_one_thread = torch.autograd.set_multithreading_enabled(False)

    def _get_backend(self, _device: torch.device) -> ThreadGroup:  # type: ignore[override]
        """It has no backend beside it: from torch 2.15 on, a batch of messages asks whether that one can coalesce."""
        return self

    @property
    def group_name(self) -> str:  # type: ignore[override]
        return str(self._world.pg_names[self])

    @property
    def pg_name(self) -> str:
        return self.group_name

    def getBackendName(self) -> str:  # noqa: N802 - PyTorch's name
        return "threaded"

    def __repr__(self) -> str:
        return f"ThreadGroup({self.group_name}, rank {self.rank()} of {self.size()})"

    # Collectives -----------------------------------------------------------------------------------------------------

    def allreduce(self, tensors: list[Tensor], opts: Any = None) -> WorkInFlight:  # type: ignore[override]
        op = dist.ReduceOp.SUM if opts is None else opts.reduceOp
        return self._start("AllReduce", tensors, tensors, partial(computed.all_reduce, op=op), opts, op)

    def allreduce_coalesced(self, tensors: list[Tensor], opts: Any = None) -> WorkInFlight:
        return self.allreduce(tensors, opts)

    def reduce(self, tensors: list[Tensor], opts: Any) -> WorkInFlight:  # type: ignore[override]
        compute = partial(computed.reduce_to, op=opts.reduceOp, root=opts.rootRank)
        outputs = tensors if self.rank() == opts.rootRank else []
        return self._start("Reduce", tensors, outputs, compute, opts, opts.reduceOp)

    def reduce_scatter(self, outputs: list[Tensor], inputs: list[list[Tensor]], opts: Any = None) -> WorkInFlight:  # type: ignore[override]
        op = dist.ReduceOp.SUM if opts is None else opts.reduceOp
        compute = partial(computed.reduce_scatter, op=op)
        return self._start("ReduceScatter", inputs[0], outputs, compute, opts, op)

    def reduce_scatter_single(self, output: Tensor, given: Tensor, opts: Any = None) -> WorkInFlight:
        return self.reduce_scatter([output], [list(given.chunk(self.size()))], opts)

    def reduce_scatter_single_coalesced(
        self, outputs: list[Tensor], inputs: list[Tensor], opts: Any = None
    ) -> WorkInFlight:
        return _last([self.reduce_scatter_single(*pair, opts) for pair in zip(outputs, inputs, strict=True)])

    def allgather(self, outputs: list[list[Tensor]], inputs: list[Tensor], opts: Any = None) -> WorkInFlight:  # type: ignore[override]
        return self._start("AllGather", inputs, outputs[0], computed.all_gather, opts)

    def allgather_coalesced(self, outputs: list[list[Tensor]], inputs: list[Tensor], opts: Any = None) -> WorkInFlight:
        # `outputs` has a list for each rank here, with a tensor for each input.
        pairs = zip(zip(*outputs, strict=True), inputs, strict=True)
        return _last([self.allgather([list(gathered)], [given], opts) for gathered, given in pairs])

    def all_gather_single(self, output: Tensor, given: Tensor, opts: Any = None) -> WorkInFlight:
        return self.allgather([list(output.chunk(self.size()))], [given], opts)

    def all_gather_single_coalesced(
        self, outputs: list[Tensor], inputs: list[Tensor], opts: Any = None
    ) -> WorkInFlight:
        return _last([self.all_gather_single(*pair, opts) for pair in zip(outputs, inputs, strict=True)])

    def broadcast(self, tensors: list[Tensor], opts: Any) -> WorkInFlight:  # type: ignore[override]
        root = opts.rootRank
        outputs = [] if self.rank() == root else tensors
        return self._start("Broadcast", tensors, outputs, partial(computed.broadcast, root=root), opts)

    def scatter(self, outputs: list[Tensor], inputs: list[list[Tensor]], opts: Any) -> WorkInFlight:  # type: ignore[override]
        given = inputs[0] if self.rank() == opts.rootRank else []
        return self._start("Scatter", given, outputs, partial(computed.scatter, root=opts.rootRank), opts)

    def gather(self, outputs: list[list[Tensor]], inputs: list[Tensor], opts: Any) -> WorkInFlight:  # type: ignore[override]
        gathered = outputs[0] if self.rank() == opts.rootRank else []
        return self._start("Gather", inputs, gathered, partial(computed.gather, root=opts.rootRank), opts)

    def alltoall(self, outputs: list[Tensor], inputs: list[Tensor], opts: Any = None) -> WorkInFlight:
        return self._start("AllToAll", inputs, outputs, computed.all_to_all, opts)

    def all_to_all_single(
        self,
        output: Tensor,
        given: Tensor,
        output_sizes: list[int] | None,
        input_sizes: list[int] | None,
        opts: Any = None,
    ) -> WorkInFlight:
        outputs, inputs = self._split(output, output_sizes), self._split(given, input_sizes)
        return self._start("AllToAllBase", inputs, outputs, computed.all_to_all, opts, shown=[output, given])

    def barrier(self, opts: Any = None) -> WorkInFlight:
        return self._start("Barrier", [], [], lambda given: [[]] * len(given), opts)

    # Messages --------------------------------------------------------------------------------------------------------

    def send(self, tensors: list[Tensor], destination: int, tag: int) -> WorkInFlight:
        ranks = self._ranks()
        (tensor,) = tensors
        message = Send(source=_thread.rank, destination=ranks[destination], tag=tag, tensor=tensor)
        calls_in_flight().check_tensor(tensor, "send", writes=False)
        self._trace("Send", (message.source, message.destination), tensors, asynchronous=False)
        with torch.no_grad():
            self._mailbox().send(message)
        return self._work(str(message), [], tensors, lambda: None, lambda: message.done)

    def recv(self, tensors: list[Tensor], source: int, tag: int) -> WorkInFlight:
        return self._receive(tensors, self._ranks()[source], tag)

    def recv_anysource(self, tensors: list[Tensor], tag: int) -> WorkInFlight:
        return self._receive(tensors, None, tag)

    def _receive(self, tensors: list[Tensor], source: int | None, tag: int) -> WorkInFlight:
        (tensor,) = tensors
        receive = Receive(source=source, destination=_thread.rank, tag=tag, tensor=tensor)
        calls_in_flight().check_tensor(tensor, "recv", writes=True)
        self._trace("Receive", (-1 if source is None else source, _thread.rank), tensors, asynchronous=False)
        with torch.no_grad():
            self._mailbox().receive(receive)

        def write() -> None:
            assert receive.value is not None
            tensor.detach().copy_(receive.value)

        ranks = self._ranks()
        work = self._work(str(receive), tensors, [], write, lambda: receive.done)
        work.source_rank_known_by(lambda: -1 if receive.source is None else ranks.index(receive.source))
        return work

    def _mailbox(self) -> Mailbox:
        mailboxes: dict[Any, Mailbox] = _thread.exchanges.mailboxes
        return mailboxes.setdefault(self._key(), Mailbox())

    # What they are made of -------------------------------------------------------------------------------------------

    def _start(
        self,
        kind: str,
        given: Sequence[Tensor],
        outputs: Sequence[Tensor],
        compute: Compute,
        opts: Any,
        op: Any = None,
        shown: Sequence[Tensor] | None = None,
    ) -> WorkInFlight:
        """Join the group's next collective; `shown` are the tensors for the trace, where these are parts of others."""
        asynchronous = opts is not None and opts.asyncOp
        calls = calls_in_flight()
        for tensor in given:
            calls.check_tensor(tensor, kind, writes=False)
        for tensor in outputs:
            calls.check_tensor(tensor, kind, writes=True)
        if kind != "Barrier":
            name = kind if op is None else f"{kind} {computed.name_reduction(op)}"
            shown = shown or [*outputs, *(x for x in given if all(x is not y for y in outputs))]
            self._trace(name, self._ranks(), shown, asynchronous=asynchronous)
        own = [x for x in given if any(overlap(x, y) for y in outputs)]  # FSDP2 gathers a part of the result's memory
        if asynchronous and own and calls.poisons:
            given = [x.detach().clone() for x in given]  # its own memory is filled with poison
        self._count += 1
        shared: dict[Any, _Collective] = _thread.exchanges.collectives
        collective = shared.setdefault((self._key(), self._count), _Collective(ranks=self._ranks()))
        collective.join(self.rank(), kind, list(given), compute)
        if collective.results is not None:
            shared.pop((self._key(), self._count), None)
        rank = self.rank()

        def write() -> None:
            assert collective.results is not None
            results = collective.results[rank]
            for output, result in zip(outputs, results, strict=True):
                if output.shape != result.shape and output.numel() != result.numel():
                    raise CannotRunError(
                        f"{kind}: a result of shape {list(result.shape)} does not fit into a tensor of shape "
                        f"{list(output.shape)} on rank {_thread.rank}"
                    )
                output.detach().copy_(result.view(output.shape))

        return self._work(
            collective.calls[rank][1],
            outputs,
            given,
            write,
            lambda: collective.results is not None,
            asynchronous=asynchronous,
        )

    def _work(
        self,
        call: str,
        outputs: Sequence[Tensor],
        inputs: Sequence[Tensor],
        write: Callable[[], None],
        done: Callable[[], bool],
        *,
        asynchronous: bool = True,
    ) -> WorkInFlight:
        rank, turns = _thread.rank, _thread.exchanges.turns

        def complete() -> None:
            turns.wait_until(rank, done, call)
            with torch.no_grad():
                write()

        def is_done() -> bool:
            if not done():
                turns.give_way(rank, call)
            return done()

        one = CallInFlight(call=call, outputs=list(outputs), inputs=list(inputs), complete=complete, is_done=is_done)
        if asynchronous:
            calls_in_flight().start(one)
        return WorkInFlight(one)

    def _trace(self, kind: str, ranks: tuple[int, ...], tensors: Sequence[Tensor], *, asynchronous: bool) -> None:
        trace = getattr(_thread, "trace", None)
        if trace is not None:
            trace(ThreadCall(kind=kind, ranks=ranks, tensors=tensors, asynchronous=asynchronous))

    def _split(self, tensor: Tensor, sizes: list[int] | None) -> list[Tensor]:
        return list(tensor.split(list(sizes)) if sizes else tensor.chunk(self.size()))

    def _ranks(self) -> tuple[int, ...]:
        return tuple(dist.get_process_group_ranks(self))

    def _key(self) -> tuple[str, tuple[int, ...]]:
        return self.group_name, self._ranks()


def _last(works: list[WorkInFlight]) -> WorkInFlight:
    """The last of several, the others waited for."""
    for work in works[:-1]:
        work.wait()
    return works[-1]
