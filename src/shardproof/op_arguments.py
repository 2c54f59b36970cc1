"""The arguments of a PyTorch op by their names, whichever way they were given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch._ops import OpOverload


def name_arguments(op: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Those that were given."""
    names = (argument.name for argument in op._schema.arguments)  # noqa: SLF001 - private by name only
    return dict(zip(names, args, strict=False)) | dict(kwargs)


def complete_arguments(op: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Those that were given, and the others' default values."""
    arguments = op._schema.arguments  # noqa: SLF001
    defaults = {a.name: a.default_value for a in arguments if a.has_default_value()}
    return defaults | name_arguments(op, args, kwargs)
