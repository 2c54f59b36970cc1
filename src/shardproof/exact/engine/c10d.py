"""PyTorch's bindings of collectives, which a build without torch.distributed lacks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor


def distributed() -> Any:
    """The module."""
    from torch._C import _distributed_c10d

    return _distributed_c10d


def kind_of(reduction: Any) -> Any:
    """Which of SUM, AVG, MAX, ... an op's argument says, where it is a number."""
    return distributed().ReduceOp.RedOpType(reduction.op())


def options(kind: str, **values: Any) -> Any:
    """Those of a collective, by the name of their class."""
    found = getattr(distributed(), kind)()
    for name, value in values.items():
        setattr(found, name, distributed().ReduceOp(value) if name == "reduceOp" else value)
    return found


def boxed(work: Any) -> Any:
    """A work, as the ops return it."""
    return distributed().Work.boxed(work)


def new_like(x: Tensor) -> Tensor:
    """Memory for a result of a tensor's shape, contiguous as collectives need it."""
    return torch.empty_like(x, memory_format=torch.contiguous_format)
