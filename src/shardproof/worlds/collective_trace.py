"""Trace of the collectives that a rank takes part in, in any world and whichever code calls them.

The threaded world reports its own. In processes a collective of `torch.distributed` is an op below autograd (in the
c10d or a functional namespace), which a dispatch mode sees; each op is traced once, whatever ops it calls in turn.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.distributed.distributed_c10d import _resolve_process_group  # type: ignore[attr-defined]  # private
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from shardproof.op_arguments import complete_arguments
from shardproof.worlds.in_flight import calls_in_flight, early_accesses_reported
from shardproof.worlds.process_calls import is_asynchronous, note_functional, note_wait, start_call
from shardproof.worlds.thread_group import is_thread_of_world, thread_calls_traced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch._ops import OpOverload

    from shardproof.worlds.early_access import EarlyAccess
    from shardproof.worlds.thread_group import ThreadCall

_NAMESPACES: Final = frozenset({"c10d", "_c10d_functional", "_dtensor"})
# They wait, or inspect a tensor, and communicate nothing.
_NOT_COLLECTIVES: Final = frozenset(
    {"wait_tensor", "_wrap_tensor_autograd", "barrier", "monitored_barrier_", "check_for_nan"}
)
_PLAIN: Final = (Tensor, torch.nn.Parameter, torch.nn.Buffer)


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedCollective:
    """One collective, or one message, on one rank.

    Attributes:
        kind: its name in this world, and the reduction: 'AllReduce SUM'. The name differs between kinds of worlds.
        ranks: of the group, by their global rank; of a message its source (-1: any) and destination.
        shapes: of the rank's tensors.
        dtype: of the rank's tensors: 'float32'; empty where it has none. Two runs of one program may differ in it.
        asynchronous: whether the program waits for it by itself. Of a message this is not known, and False.
    """

    kind: str
    ranks: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtype: str = field(default="", compare=False)
    asynchronous: bool = False


@contextmanager
def trace_collectives(
    add: Callable[[TracedCollective], None],
    report: Callable[[EarlyAccess], None] = lambda _access: None,
    *,
    poison: bool = True,
    checked: bool = False,
) -> Iterator[None]:
    """Inside, call `add` for every collective and message of the calling rank, and `report` for every early access.

    Args:
        add: called when the rank calls the collective; not for barriers.
        report: called where the result of an asynchronous call is used, or its input changed, before the wait.
        poison: whether such results hold NaN until then, for code that reads memory without an op.
        checked: another mode calls `check_op` before each op of a rank that is a thread.
    """
    if is_thread_of_world():

        def add_threaded(call: ThreadCall) -> None:
            add(
                TracedCollective(
                    kind=call.kind,
                    ranks=call.ranks,
                    shapes=_shapes_of(call.tensors),
                    dtype=_dtype_of(call.tensors),
                    asynchronous=call.asynchronous,
                )
            )

        mode = nullcontext() if checked else _CheckMode()  # type: ignore[no-untyped-call]
        with thread_calls_traced(add_threaded), early_accesses_reported(report, poison=poison), mode:
            yield
    else:
        with early_accesses_reported(report, poison=poison), _TraceMode(add):
            yield


def check_op(op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Report an op on plain tensors of a rank that is a thread, if it is an early access."""
    if is_thread_of_world():
        calls = calls_in_flight()
        if calls.started:
            calls.check_op(op, args, kwargs)


class _CheckMode(TorchDispatchMode):
    """Finds early accesses of ranks that are threads, whose calls are no ops."""

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if calls_in_flight().started:
            if not all(kind in _PLAIN for kind in types) and not any(issubclass(kind, FakeTensor) for kind in types):
                return NotImplemented
            check_op(func, args, kwargs or {})
        return func(*args, **(kwargs or {}))


class _TraceMode(TorchDispatchMode):
    """Sees every op of this process before any other mode; DTensor's ops on local tensors, not those on DTensors."""

    def __init__(self, add: Callable[[TracedCollective], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._add = add

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if any(issubclass(kind, FakeTensor) for kind in types):
            return func(*args, **kwargs)  # shape propagation
        if not all(kind in _PLAIN for kind in types):
            return NotImplemented
        calls, name = calls_in_flight(), func._schema.name.partition("::")[2]  # noqa: SLF001 - private by name only
        if calls.started:
            calls.check_op(func, args, kwargs)
        if func.namespace not in _NAMESPACES:
            return func(*args, **kwargs)
        if name == "wait_tensor":
            result = func(*args, **kwargs)
            note_wait(args[0])
            return result
        if name in _NOT_COLLECTIVES or not calls.checked:  # unchecked: a part of a wait
            return func(*args, **kwargs)
        given = complete_arguments(func, args, kwargs)
        asynchronous = func.namespace == "c10d" and is_asynchronous(name, given)
        kind = f"{name} {_name_of(given.get('reduce_op'))}".strip()
        self._add(
            TracedCollective(
                kind=kind,
                ranks=_ranks_of(name, given),
                shapes=_shapes_of(given),
                dtype=_dtype_of(given),
                asynchronous=bool(given.get("async_op")),
            )
        )
        if asynchronous:
            return start_call(func, name, given)
        result = func(*args, **kwargs)
        if func.namespace == "_c10d_functional":
            note_functional(result)
        return result


def _ranks_of(name: str, given: dict[str, Any]) -> tuple[int, ...]:
    if "process_group" in given:
        group = dist.ProcessGroup.unbox(given["process_group"])
    else:
        group = _resolve_process_group(given.get("group_name") or given["group"])
    ranks = tuple(dist.get_process_group_ranks(group))
    own = dist.get_rank()
    if name == "send":
        return own, ranks[given["dst"]]
    if name.startswith("recv"):
        return ranks[given["src"]] if "src" in given else -1, own
    return ranks


def _shapes_of(data: Any) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(x.shape) for x in tree_leaves(data) if isinstance(x, Tensor))


def _dtype_of(data: Any) -> str:
    return next((str(x.dtype).removeprefix("torch.") for x in tree_leaves(data) if isinstance(x, Tensor)), "")


def _name_of(reduction: Any) -> str:
    """'SUM', from a string, a value of PyTorch's enumeration, or an op's argument that holds one."""
    if reduction is None or isinstance(reduction, str):
        return (reduction or "").upper()
    kinds = dist.ReduceOp.RedOpType
    if isinstance(reduction, dist.ReduceOp) and not isinstance(reduction, kinds):
        reduction = reduction.op  # type: ignore[attr-defined]  # from a collective's options
    return str(reduction if isinstance(reduction, kinds) else kinds(reduction.op())).rpartition(".")[2]
