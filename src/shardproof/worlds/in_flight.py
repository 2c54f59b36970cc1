"""Asynchronous calls in flight: until the wait, their results must not be used and their inputs not changed.

The result is computed into memory of its own, and copied to where the program expects it by `wait`. An access before
that is reported, with the lines of the call and of the access; the call is then waited for, so that the run goes on
with the values that it would have had.
"""

from __future__ import annotations

import sys
import threading
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor
from torch._C._distributed_c10d import Work
from torch.futures import Future
from torch.utils._python_dispatch import _disable_current_modes, _get_current_dispatch_mode_stack
from torch.utils._pytree import tree_leaves

from shardproof.op_arguments import name_arguments
from shardproof.source_lines import access_line
from shardproof.worlds.early_access import EarlyAccess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch._ops import OpOverload

# They look at a tensor's shape, dtype and device alone, give a view that the schema does not show, or wait.
_METADATA: Final = frozenset(
    {"empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like", "_unsafe_view", "record_stream"}
    | {"new_empty", "new_zeros", "new_ones", "new_full", "new_empty_strided", "is_same_size", "_reshape_alias"}
    | {"wait_tensor", "_wrap_tensor_autograd"}  # of functional collectives
)


@dataclass(slots=True, kw_only=True, eq=False)
class CallInFlight:
    """One asynchronous call of this rank.

    Attributes:
        call: in words.
        line: the user's line that made it.
        outputs: what the call will write.
        inputs: what it reads.
        complete: waits until the result is known, and writes the outputs.
        is_done: whether `complete` would not wait.
        finished: the program has waited for it.
        written: the outputs hold the result.
        work: what the program waits for, kept alive until then.
        modes: PyTorch's modes at the call. The outputs are written in these: a wait may come from inside an op that a
            mode carries out, and that mode would not see what is written.
    """

    call: str
    outputs: list[Tensor]
    inputs: list[Tensor]
    complete: Callable[[], None]
    is_done: Callable[[], bool] = lambda: True
    line: str = field(default_factory=access_line)
    finished: bool = False
    written: bool = False
    work: Work | None = None
    modes: list[Any] = field(default_factory=_get_current_dispatch_mode_stack)

    def finish(self) -> None:
        """Wait, if it has not been waited for."""
        if not self.finished:
            self.finished = True
            calls = calls_in_flight()
            if self in calls.started:
                calls.started.remove(self)
            self.write()

    def write(self) -> None:
        """Write the outputs, if they are not written; the program has still to wait."""
        if not self.written:
            self.written = True
            with calls_in_flight().unchecked(), _disable_current_modes(), ExitStack() as modes:
                for mode in self.modes:
                    modes.enter_context(mode)
                self.complete()


@dataclass(slots=True, kw_only=True)
class CallsInFlight:
    """Of one rank.

    Attributes:
        started: in the order of the calls.
        report: what to do with an early access; None where nobody looks for them.
        poison: whether outputs hold NaN until they are written.
        checked: whether accesses are looked at; not while the prover looks at tensors.
    """

    started: list[CallInFlight] = field(default_factory=list)
    report: Callable[[EarlyAccess], None] | None = None
    poison: bool = True
    checked: bool = True

    @property
    def poisons(self) -> bool:
        """Whether outputs are filled with NaN: not where a mode that nobody has told about may compute otherwise."""
        unknown = self.report is None and torch._C._len_torch_dispatch_stack()  # noqa: SLF001
        return self.poison and not unknown

    def start(self, call: CallInFlight) -> None:
        """Note a call, and fill its outputs with NaN if they are to be poison."""
        if self.poisons:
            with torch.no_grad():
                for output in call.outputs:
                    if output.is_floating_point():
                        output.detach().fill_(torch.nan)
        self.started.append(call)

    def check_op(self, op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Report an op that uses an output, or changes an input, of a call in flight; wait for that call."""
        name = op._schema.name.partition("::")[2]  # noqa: SLF001 - private by name only
        if not self.started or not self.checked or op.is_view or name in _METADATA:
            return
        given = name_arguments(op, args, kwargs)
        for argument in op._schema.arguments:  # noqa: SLF001
            writes = argument.alias_info is not None and argument.alias_info.is_write
            for tensor in tree_leaves(given.get(argument.name)):
                if isinstance(tensor, Tensor):
                    self.check_tensor(tensor, name, writes=writes)

    def check_tensor(self, tensor: Tensor, access: str, *, writes: bool) -> None:
        """Report the access to a tensor that a call in flight will write, or reads and must not see changed."""
        for call in list(self.started) if self.checked else ():
            of_output = any(overlap(tensor, output) for output in call.outputs)
            of_input = writes and not of_output and any(overlap(tensor, given) for given in call.inputs)
            if not of_output and not of_input:
                continue
            if self.report is not None:
                self.report(
                    EarlyAccess(
                        call=call.call,
                        call_line=call.line,
                        access=access,
                        access_line=access_line(),
                        of_input=of_input,
                    )
                )
            call.finish()

    def finish_on(self, tensor: Tensor) -> None:
        """The program has waited, by a way of PyTorch's own, for the calls that write this tensor."""
        for call in [call for call in self.started if any(overlap(tensor, output) for output in call.outputs)]:
            call.written = True
            call.finish()

    @contextmanager
    def unchecked(self) -> Iterator[None]:
        """Inside, an access is none of the program's."""
        before, self.checked = self.checked, False
        try:
            yield
        finally:
            self.checked = before

    @contextmanager
    def shown(self, tensor: Tensor) -> Iterator[Callable[[Tensor], None]]:
        """Inside, a tensor holds what it will hold after the wait, and may be read, although the wait is still to come.

        What is yielded takes a tensor with which the program goes on in its place: using that is an early access too.
        """
        calls = [call for call in self.started if any(overlap(tensor, output) for output in call.outputs)]
        for call in calls:
            call.write()

        def replace_by(other: Tensor) -> None:
            for call in calls:
                call.outputs.append(other)

        with self.unchecked():
            yield replace_by


_rank = threading.local()


def calls_in_flight() -> CallsInFlight:
    """The calling rank's: of this thread, where ranks are threads."""
    if not hasattr(_rank, "calls"):
        _rank.calls = CallsInFlight()
    calls: CallsInFlight = _rank.calls
    return calls


@contextmanager
def early_accesses_reported(report: Callable[[EarlyAccess], None], *, poison: bool) -> Iterator[None]:
    """Inside, `report` gets every early access that `check_op` finds; calls still in flight at the end are waited for.

    Args:
        report: called with each.
        poison: fill results with NaN until they are waited for, for code that reads memory without an op.
    """
    calls = calls_in_flight()
    before = calls.report, calls.poison
    calls.report, calls.poison = report, poison
    try:
        yield
        for call in list(calls.started):
            call.finish()
    finally:
        calls.report, calls.poison = before
        calls.started.clear()


def overlap(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have an element of memory in common."""
    if one is other:
        return True
    with torch._C.DisableTorchFunction():  # noqa: SLF001 - looks at addresses only
        return _share_memory(one, other)


def _share_memory(one: Tensor, other: Tensor) -> bool:
    if hasattr(one, "__tensor_flatten__"):  # a DTensor, or another one that consists of plain ones
        parts = (getattr(one, name) for name in one.__tensor_flatten__()[0])  # a DTensor's mesh is among them
        return any(_share_memory(part, other) for part in parts if isinstance(part, Tensor))
    if hasattr(other, "__tensor_flatten__"):
        return _share_memory(other, one)
    if one.untyped_storage()._cdata != other.untyped_storage()._cdata or not one.numel() or not other.numel():  # noqa: SLF001
        return False
    start, stop = _span(one)
    other_start, other_stop = _span(other)
    if stop <= other_start or other_stop <= start:
        return False
    if one.is_contiguous():
        return True
    with _disable_current_modes():
        size = one.element_size()
        offsets: Any = torch.zeros((), dtype=torch.int64)
        for length, stride in zip(one.shape, one.stride(), strict=True):
            offsets = offsets.unsqueeze(-1) + torch.arange(length) * stride
        offsets = (offsets + one.storage_offset()) * size
        return bool(((offsets + size > other_start) & (offsets < other_stop)).any())


def _span(tensor: Tensor) -> tuple[int, int]:
    """The bytes from the first to behind the last element, within the storage."""
    start = int(tensor.storage_offset())
    last = start + sum(
        (int(length) - 1) * int(stride) for length, stride in zip(tensor.shape, tensor.stride(), strict=True)
    )
    return start * tensor.element_size(), (last + 1) * tensor.element_size()


class WorkInFlight(Work):
    """What an asynchronous call returns: PyTorch's interface to a `CallInFlight`."""

    def __init__(self, call: CallInFlight) -> None:
        super().__init__()
        self._call = call
        self._source: Callable[[], int] | None = None

    def source_rank_known_by(self, source: Callable[[], int]) -> None:
        """Say how to find the rank, in the group, that a message came from."""
        self._source = source

    def wait(self, timeout: Any = None) -> bool:  # noqa: ARG002 - the world has a timeout of its own
        self._call.finish()
        return True

    def synchronize(self) -> None:
        self._call.finish()

    def block_current_stream(self) -> None:
        self._call.finish()

    def is_completed(self) -> bool:
        if not self._call.finished and self._call.is_done():
            self._call.finish()
        return self._call.finished

    def is_success(self) -> bool:
        return True

    def exception(self) -> None:
        return None

    def result(self) -> list[Tensor]:
        return list(self._call.outputs)

    def source_rank(self) -> int:
        return self._source() if self._source is not None else -1

    def _source_rank(self) -> int:
        return self.source_rank()

    def get_future(self) -> Future[list[Tensor]]:
        # C++ (DDP's reducer) waits for a future without calling Python: for it the call is waited for here.
        if "get_future" not in sys._getframe(1).f_code.co_names:  # noqa: SLF001
            self._call.finish()
        return _FutureInFlight(self._call)


class _FutureInFlight(Future[list[Tensor]]):
    """The future of a call in flight: asking for its value waits for the call."""

    def __init__(self, call: CallInFlight) -> None:
        super().__init__()
        self._call = call
        super().set_result(list(call.outputs))

    def done(self) -> bool:
        return self._call.finished or self._call.is_done()

    def wait(self) -> list[Tensor]:
        self._call.finish()
        return super().wait()

    def value(self) -> list[Tensor]:
        self._call.finish()
        return super().value()

    def then(self, callback: Callable[[Future[list[Tensor]]], Any]) -> Future[Any]:
        self._call.finish()
        return super().then(callback)

    def add_done_callback(self, callback: Callable[[Future[list[Tensor]]], None]) -> None:
        self._call.finish()
        super().add_done_callback(callback)
