"""Walking through an op's arguments: nested lists and tuples with tensors in them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

# Tensors that hold their own memory; any other class is a wrapper whose own code is to run first.
PLAIN: Final = (Tensor, torch.nn.Parameter, torch.nn.Buffer)


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors in nested lists, tuples and dicts, in order."""
    found: list[Tensor] = []
    _collect(value, found)
    return found


def _collect(value: Any, found: list[Tensor]) -> None:
    # Several times an op: numbers, shapes and dtypes, of which there are most, are passed over without a call.
    if isinstance(value, Tensor):
        found.append(value)
        return
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list | tuple):
        return
    for item in value:
        if isinstance(item, Tensor):
            found.append(item)
        elif isinstance(item, list | tuple | dict):
            _collect(item, found)


def floats_in(value: Any) -> list[Tensor]:
    """The floating and complex tensors among them."""
    return [x for x in tensors_in(value) if x.is_floating_point() or x.is_complex()]


def map_tensors(function: Callable[[Tensor], Any], value: Any) -> Any:
    """The same nested value with `function` applied to its tensors."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, list):
        return [map_tensors(function, item) for item in value]
    if isinstance(value, tuple):
        items = [map_tensors(function, item) for item in value]
        # Results like torch.return_types.max take one sequence, named tuples their items.
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, dict):
        return {key: map_tensors(function, item) for key, item in value.items()}
    return value


def in_float64(value: Any) -> Any:
    """The same nested value with every floating dtype replaced by float64, which holds residues, complex ones alike."""
    if isinstance(value, torch.dtype):
        return torch.float64 if value.is_floating_point else torch.complex128 if value.is_complex else value
    if isinstance(value, tuple):
        return tuple(in_float64(item) for item in value) if torch.dtype in map(type, value) else value
    if isinstance(value, dict):
        return {key: in_float64(item) for key, item in value.items()}
    return value


def covers_storage(tensor: Tensor) -> bool:
    """Whether a tensor's elements are all of its storage, each once."""
    if tensor.numel() * tensor.element_size() != tensor.untyped_storage().nbytes():
        return False
    if tensor.is_contiguous():
        return True
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def view_like(companion: Tensor, tensor: Tensor) -> Tensor:
    """The elements of a tensor over a storage laid out alike that stand where those of a view stand."""
    return companion.as_strided(tensor.size(), tensor.stride(), tensor.storage_offset())


def whole_storage(tensor: Tensor) -> Tensor:
    """All of a tensor's storage, flat; of a complex one the real and imaginary parts in turn."""
    dtype = tensor.dtype.to_real() if tensor.is_complex() else tensor.dtype
    return torch.empty(0, dtype=dtype, device=tensor.device).set_(tensor.untyped_storage())
