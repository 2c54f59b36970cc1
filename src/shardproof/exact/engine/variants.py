"""In-place, `out=` and `_foreach_` forms of an op, traced back to the functional op that has the rule."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch._ops import OpOverload, OpOverloadPacket

if TYPE_CHECKING:
    from collections.abc import Callable


@lru_cache(maxsize=4096)
def functional_of(op: OpOverload) -> OpOverload | None:
    """The op that computes what `op` writes into its first argument (`add_.Tensor`) or into `out`; None if none."""
    schema = op._schema
    namespace, name = schema.name.split("::")
    if any(argument.is_out for argument in schema.arguments):
        wanted = [str(a.type) for a in schema.arguments if not a.is_out]
        packet = getattr(getattr(torch.ops, namespace), name, None)
    elif name.endswith("_") and not name.endswith("__"):
        wanted = [str(a.type) for a in schema.arguments]
        packet = getattr(getattr(torch.ops, namespace), name[:-1], None)
    else:
        return None
    if not isinstance(packet, OpOverloadPacket):
        return None
    for overload in packet.overloads():
        candidate: OpOverload = getattr(packet, overload)
        arguments = candidate._schema.arguments
        if [str(a.type) for a in arguments] == wanted and not any(a.is_write for a in arguments):
            return candidate
    return None


def own_decomposition(op: OpOverload) -> Callable[..., Any] | None:
    """The op's own decomposition: a composite op into other ATen ops, a prim into the ATen op that it stands for."""
    if op.namespace == "prims":
        found: Callable[..., Any] | None = getattr(op, "impl_aten", None)
        return found
    return op.decompose if op._can_decompose() else None


def is_written(op: OpOverload) -> bool:
    """Whether the op writes into an argument."""
    return any(argument.is_write for argument in op._schema.arguments)


def written_arguments(op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """The tensors among the arguments that the op writes into, in the order of its results."""
    written: list[Tensor] = []
    for position, argument in enumerate(op._schema.arguments):
        if argument.is_write:
            value = args[position] if position < len(args) else kwargs.get(argument.name)
            values = value if isinstance(value, list | tuple) else [value]
            written.extend(x for x in values if isinstance(x, Tensor))
    return written


def without_out(op: OpOverload, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The keyword arguments less those that are written into."""
    written = {argument.name for argument in op._schema.arguments if argument.is_out}
    return {name: value for name, value in kwargs.items() if name not in written}


_aten = torch.ops.aten
# They add up only where they are told to.
_PUTS = frozenset({_aten.index_put.default, _aten._unsafe_index_put.default, _aten.put.default})


def puts_elements(op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether the functional op puts elements in the places of others: `x[index] = y`, nothing added up."""
    return op in _PUTS and not (args[3] if len(args) > 3 else kwargs.get("accumulate"))


_TENSORS_OF_ADDC = 3
_WITH_VALUE = frozenset({_aten.addcmul, _aten.addcdiv, _aten.addcmul_, _aten.addcdiv_})


@dataclass(frozen=True, slots=True, kw_only=True)
class EachCall:
    """One element's share of a `_foreach_` call."""

    packet: OpOverloadPacket
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def split_foreach(op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[EachCall] | None:
    """The single calls that a `_foreach_` op stands for; None if `op` is not one that can be split so.

    Lists go element by element, everything else to each call alike.
    """
    name = op._schema.name.removeprefix("aten::")
    # The in-place form for an in-place one: each element's result is written before the next is computed.
    packet = getattr(torch.ops.aten, name.removeprefix("_foreach_"), None)
    into_out = any(argument.is_out for argument in op._schema.arguments)
    if not name.startswith("_foreach_") or not isinstance(packet, OpOverloadPacket) or into_out:
        return None
    count = next(len(value) for value in args if isinstance(value, list | tuple))

    def share(value: Any, position: int) -> Any:
        return value[position] if isinstance(value, list | tuple) and len(value) == count else value

    names = [argument.name for argument in op._schema.arguments]
    # A tensor of scalars stands for one scalar an element.
    unbound = [
        value.tolist() if names[i] == "scalars" and isinstance(value, Tensor) else value for i, value in enumerate(args)
    ]
    named = dict(kwargs)
    if packet in _WITH_VALUE and len(unbound) > _TENSORS_OF_ADDC:
        named["value"] = unbound.pop()  # there it is a keyword
    return [
        EachCall(
            packet=packet,
            args=tuple(share(value, i) for value in unbound),
            kwargs={key: share(value, i) for key, value in named.items()},
        )
        for i in range(count)
    ]
