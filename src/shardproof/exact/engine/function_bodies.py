"""The bodies of PyTorch's functions that call others, for a mode that has to see these too.

A function mode is handed `multi_head_attention_forward` or `backward` as a whole and is off inside: it would miss
attention and dropout within, and what a checkpoint computes again. `body_of` gives the body, to be run with a mode on.
"""

from __future__ import annotations

from types import FunctionType
from typing import TYPE_CHECKING, Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

BACKWARDS: Final = frozenset({Tensor.backward, torch.autograd.backward, torch.autograd.grad})


def body_of(func: Callable[..., Any]) -> Callable[..., Any] | None:
    """The function without its own call of the mode, to be called with one on; None if it has nothing inside."""
    if func not in BACKWARDS and func is not F.multi_head_attention_forward:
        return None
    assert isinstance(func, FunctionType)
    unasked = {"has_torch_function": _has_none, "has_torch_function_unary": _has_none}
    body = FunctionType(func.__code__, {**func.__globals__, **unasked}, func.__name__, func.__defaults__)
    body.__kwdefaults__ = func.__kwdefaults__
    return body


def _has_none(*_tensors: Any) -> bool:
    return False
