"""Which parameters hold random numbers that DTensor has drawn for shards.

On GPUs DTensor gives each shard numbers of its own; on a mesh of CPUs all ranks draw the same. So that shards start
alike says nothing here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from shardproof.proving.running.capture import local_value

if TYPE_CHECKING:
    from torch._ops import OpOverload
    from torch.nn import Module


class DTensorDraws(TorchDispatchMode):
    """Inside, notes what DTensor draws for shards, and what is computed from it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._noted: dict[int, Tensor] = {}  # by the address of their memory, which they keep from being used again

    def names(self, model: Module) -> tuple[str, ...]:
        """The parameters of a model that hold such numbers."""
        return tuple(name for name, parameter in model.named_parameters() if self._is_noted(parameter))

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if not any(issubclass(kind, DTensor) for kind in types):
            return result
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, DTensor)]
        draws = torch.Tag.nondeterministic_seeded in func.tags
        if any((draws and _is_split(x)) or self._is_noted(x) for x in given):
            for x in tree_leaves(result):
                if isinstance(x, DTensor):
                    local = local_value(x)
                    self._noted[_address(local)] = local
        return result

    def _is_noted(self, x: Tensor) -> bool:
        local = local_value(x)
        return bool(local.numel()) and not local.is_meta and _address(local) in self._noted


def _is_split(x: DTensor) -> bool:
    return any(placement.is_shard() for placement in x.placements)


def _address(local: Tensor) -> int:
    return local.untyped_storage().data_ptr()
