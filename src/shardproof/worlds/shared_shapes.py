"""Shapes of results on DTensors: ranks that are threads work them out once, together.

For every op DTensor runs the whole tensors' shapes through fake tensors, and keeps what comes out by thread and by
mesh. Shape, stride and dtype of a result follow from those of the arguments alone, so they are the same on every rank.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

_PLAIN = (bool, int, float, complex, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format)


@contextmanager
def shapes_shared() -> Iterator[None]:
    """Inside, the shapes that one rank has worked out are those of every rank; on exit they are forgotten."""
    from torch.distributed.tensor._sharding_prop import ShardingPropagator

    compute = ShardingPropagator._propagate_tensor_meta_non_cached  # noqa: SLF001
    known: dict[Any, Any] = {}

    def look_up(self: Any, op_schema: Any) -> Any:
        try:
            key = describe_call(op_schema)
            is_known = key in known
        except (_UnknownError, TypeError):  # a symbolic size has no hash
            return compute(self, op_schema)
        if not is_known:
            known[key] = compute(self, op_schema)
        found = known[key]
        return list(found) if isinstance(found, list) else found

    ShardingPropagator._propagate_tensor_meta_non_cached = look_up  # type: ignore[method-assign]  # noqa: SLF001
    try:
        yield
    finally:
        ShardingPropagator._propagate_tensor_meta_non_cached = compute  # type: ignore[method-assign]  # noqa: SLF001


def describe_call(op_schema: Any) -> tuple[Any, ...]:
    """An op and its arguments as a key: equal for two calls only if their results have one shape and dtype.

    Args:
        op_schema: DTensor's own, with a spec in the place of each DTensor.
    """
    arguments = tuple(map(_describe, op_schema.args_schema))
    named = tuple((name, _describe(value)) for name, value in sorted(op_schema.kwargs_schema.items()))
    return op_schema.op, arguments, named, torch.get_default_dtype()


class _UnknownError(Exception):
    """An argument of which it is not known what of it the shape depends on."""


def _describe(value: Any) -> Any:
    """1, 1.0 and True are equal, and promote a dtype differently: a number goes with its type."""
    meta = getattr(value, "tensor_meta", None)
    if meta is not None:
        return "tensor", tuple(meta.shape), tuple(meta.stride), meta.dtype, value.mesh.device_type
    if isinstance(value, list | tuple):
        return type(value), tuple(map(_describe, value))
    if type(value) not in _PLAIN:
        raise _UnknownError
    return type(value), value
