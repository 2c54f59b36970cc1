"""Asynchronous calls of ranks that are processes: ops of the c10d namespace, carried out into memory of their own.

The same poison as among threads. A message is preceded by its dtype and shape, so that one that does not fit is named
with both ranks' calls; gloo would hand over the bytes or end the connection.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import Work
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

from shardproof.errors import CannotRunError
from shardproof.worlds.in_flight import CallInFlight, WorkInFlight, calls_in_flight, overlap
from shardproof.worlds.messages import describe, fit

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch._ops import OpOverload

_OUTPUTS: Final = ("output_tensors", "output_tensor", "outputs", "output", "output_lists")
_IN_PLACE: Final = frozenset({"allreduce_", "allreduce_coalesced_", "broadcast_", "reduce_"})
_RECEIVES: Final = frozenset({"recv_", "recv_any_source_"})
_DTYPES: Final = tuple(
    sorted({x for x in vars(torch).values() if isinstance(x, torch.dtype)}, key=str)  # the same in every process
)
_MOST_DIMS: Final = 14


def is_asynchronous(name: str, given: dict[str, Any]) -> bool:
    """Whether the op returns before it has taken effect, so that the program has to wait for it."""
    return name in _RECEIVES or name == "send" or bool(given.get("async_op"))


def start_call(func: OpOverload, name: str, given: dict[str, Any]) -> Any:
    """Carry out an asynchronous op of the c10d namespace, and return what it returns, with a `Work` of ours."""
    if name == "send":
        return _send(func, given)
    if name in _RECEIVES:
        return _receive(func, name, given)
    written = "tensors" if name in _IN_PLACE else next(one for one in _OUTPUTS if one in given)
    hidden = tree_map(torch.clone if name in _IN_PLACE else torch.empty_like, given[written])
    outputs, results = tree_leaves(given[written]), tree_leaves(hidden)
    # What is given may be a part of the memory of the result, as FSDP2 has it, which is poison from here on.
    apart = {
        key: tree_map(
            lambda x: x.clone() if isinstance(x, Tensor) and any(overlap(x, y) for y in outputs) else x, value
        )
        for key, value in given.items()
        if key != written
    }
    returned = func(**(apart | {written: hidden}))
    work = Work.unbox(returned[-1] if isinstance(returned, tuple) else returned)
    inputs = [x for x in tree_leaves([v for k, v in given.items() if k != written]) if isinstance(x, Tensor)]
    call = CallInFlight(
        call=f"{name.strip('_')} of {describe(inputs or outputs)}",
        outputs=outputs,
        inputs=inputs,
        complete=lambda: _finish(work, outputs, results),
        is_done=work.is_completed,
    )
    ours = _start(call)
    return (given[written], ours) if isinstance(returned, tuple) else ours


def note_functional(result: Any) -> None:
    """Note the results of a functional collective, which is written into them at any time until `wait_tensor`."""
    for tensor in tree_leaves(result):
        call = CallInFlight(
            call=f"collective of {describe([tensor])}",
            outputs=[tensor],
            inputs=[],
            complete=partial(torch.ops._c10d_functional.wait_tensor.default, tensor),  # noqa: SLF001
        )
        calls_in_flight().started.append(call)


def note_wait(tensor: Tensor) -> None:
    """The program has waited for a functional collective."""
    calls_in_flight().finish_on(tensor)


def _send(func: OpOverload, given: dict[str, Any]) -> Any:
    (tensor,) = given["tensors"]
    group = dist.ProcessGroup.unbox(given["process_group"])
    header = _describe_message(tensor)
    with _disable_current_modes():
        announced = group.send([header], given["dst"], given["tag"])
    work = Work.unbox(func(**given))

    def complete() -> None:
        announced.wait()
        work.wait()

    call = f"send of {describe([tensor])} to rank {_global_rank(group, given['dst'])} (tag {given['tag']})"
    return _start(CallInFlight(call=call, outputs=[], inputs=[tensor], complete=complete, is_done=work.is_completed))


def _receive(func: OpOverload, name: str, given: dict[str, Any]) -> Any:
    (tensor,) = given["tensors"]
    group, tag = dist.ProcessGroup.unbox(given["process_group"]), given["tag"]
    hidden = torch.empty_like(tensor)
    with _disable_current_modes():
        header = torch.zeros(_MOST_DIMS + 2, dtype=torch.int64)
        if name == "recv_":
            announced = group.recv([header], given["src"], tag)
    work = Work.unbox(func(**(given | {"tensors": [hidden]}))) if name == "recv_" else None
    if name != "recv_":
        with _disable_current_modes():
            announced = group.recv_anysource([header], tag)
    sources = [given.get("src", -1)]

    def complete() -> None:
        with _disable_current_modes():
            announced.wait()
        if work is None:
            sources[0] = announced._source_rank()  # noqa: SLF001 - c10d's own functions call it
        _check_message(header, tensor, group, sources[0], tag)
        arrived = work or Work.unbox(torch.ops.c10d.recv_.default([hidden], given["process_group"], sources[0], tag))
        _finish(arrived, [tensor], [hidden])

    source = "any rank" if work is None else f"rank {_global_rank(group, sources[0])}"
    call = CallInFlight(
        call=f"receive of {describe([tensor])} from {source} (tag {tag})",
        outputs=[tensor],
        inputs=[],
        complete=complete,
        is_done=announced.is_completed,
    )
    return _start(call, source=lambda: sources[0])


def _start(call: CallInFlight, source: Callable[[], int] | None = None) -> Any:
    work = WorkInFlight(call)
    if source is not None:
        work.source_rank_known_by(source)
    call.work = work  # C++ holds what is not Python's part of it
    calls_in_flight().start(call)
    return Work.boxed(work)


def _finish(work: Any, outputs: list[Tensor], results: list[Tensor]) -> None:
    work.wait()
    with torch.no_grad():
        for output, result in zip(outputs, results, strict=True):
            output.detach().copy_(result)


def _describe_message(tensor: Tensor) -> Tensor:
    if tensor.ndim > _MOST_DIMS:
        raise CannotRunError(f"a message of {tensor.ndim} dims is sent; at most {_MOST_DIMS} can be")
    with _disable_current_modes():
        sizes = [*tensor.shape, *[0] * (_MOST_DIMS - tensor.ndim)]
        return torch.tensor([_DTYPES.index(tensor.dtype), tensor.ndim, *sizes], dtype=torch.int64)


def _check_message(header: Tensor, tensor: Tensor, group: Any, source: int, tag: int) -> None:
    with _disable_current_modes():
        kind, dims, *sizes = header.tolist()
        sent = torch.empty(sizes[:dims], dtype=_DTYPES[kind], device="meta")
    if not fit(sent, tensor):
        here, there = dist.get_rank(), _global_rank(group, source)
        raise CannotRunError(
            f"a message does not fit: rank {there} calls send of {describe([sent])} to rank {here} (tag {tag}), "
            f"rank {here} calls receive of {describe([tensor])} from rank {there} (tag {tag})"
        )


def _global_rank(group: Any, rank: int) -> int:
    return dist.get_global_rank(group, rank)
