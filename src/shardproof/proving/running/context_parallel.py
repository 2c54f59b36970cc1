"""PyTorch's context parallelism on the CPU: its ring of attention, with the CPU's attention for each block.

`context_parallel` and `_ContextParallel` of `torch.distributed.tensor.experimental` replace the ops of three CUDA
kernels by a ring over ranks. On the CPU attention is another op, for which they have no ring, so that their users could
prove nothing without a GPU. The ring itself takes the op as an argument: here it is given the CPU's.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

import torch

from shardproof.errors import CannotRunError
from shardproof.op_arguments import complete_arguments

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch._ops import OpOverload

_MODULE: Final = "torch.distributed.tensor.experimental._context_parallel._attention"
_FORWARD: Final = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default  # noqa: SLF001
_BACKWARD: Final = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default  # noqa: SLF001
_ON_CUDA: Final = torch.ops.aten._scaled_dot_product_flash_attention.default  # noqa: SLF001
_TOKENS: Final = 2  # the dim that is split, of [batch, heads, tokens, channels]


def let_ring_run(query: Any) -> None:
    """Give DTensors the ring of the CPU's attention, where context parallelism is switched on; no effect elsewhere.

    Args:
        query: of an attention that is about to be called, in any kind of tensor.
    """
    if type(query) is torch.Tensor or _MODULE not in sys.modules:
        return
    from torch.distributed.tensor import DTensor

    if not isinstance(query, DTensor) or query.device.type != "cpu":
        return
    handlers = DTensor._op_dispatcher._custom_op_handlers  # noqa: SLF001
    if _ON_CUDA in handlers:
        handlers.setdefault(_FORWARD, _forward)
        handlers.setdefault(_BACKWARD, _backward)


def _forward(op_call: OpOverload, args: tuple[object, ...], kwargs: dict[str, object]) -> Any:
    return _run(_ring()._templated_ring_attention, op_call, _named(op_call, args, kwargs))  # noqa: SLF001


def _backward(op_call: OpOverload, args: tuple[object, ...], kwargs: dict[str, object]) -> Any:
    given = _named(op_call, args, kwargs) | {"grad_out_name": "grad_out"}
    return _run(_ring()._templated_ring_attention_backward, op_call, given)  # noqa: SLF001


def _run(ring: Callable[..., Any], op: OpOverload, given: dict[str, Any]) -> Any:
    """The ring on each rank's part of the DTensors; its results as DTensors sharded like them."""
    query = given["query"]
    local = {name: _local(value) for name, value in given.items()}
    found = ring(query.device_mesh.get_group(), _TOKENS, op, **local)
    return tuple(_sharded_like(query, x) for x in found)


def _named(op: OpOverload, args: tuple[object, ...], kwargs: dict[str, object]) -> dict[str, Any]:
    given = complete_arguments(op, args, kwargs)
    if given.pop("attn_mask") is not None:
        raise CannotRunError(
            "attention under PyTorch's context_parallel was given a mask; its ring takes none: give is_causal=True, or "
            "split the mask by hand"
        )
    return given


def _local(value: Any) -> Any:
    from torch.distributed.tensor import DTensor

    return value.to_local() if isinstance(value, DTensor) else value


def _sharded_like(query: Any, x: torch.Tensor) -> Any:
    from torch.distributed.tensor import DTensor, Shard

    return DTensor.from_local(x, query.device_mesh, [Shard(_TOKENS)], run_check=False)


def _ring() -> Any:
    return sys.modules[_MODULE]
