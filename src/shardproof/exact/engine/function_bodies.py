"""The bodies of PyTorch's functions that call others, for a mode that has to see these too.

A function mode is handed `F.normalize`, `multi_head_attention_forward` or `backward` as a whole and is off inside: it
would miss clamps, attention and dropout within, and what a checkpoint computes again. `body_of` gives the body, to be
run with a mode on. So every function of `torch.nn.functional` that is written in Python is seen as it is written.
"""

from __future__ import annotations

from functools import lru_cache
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

BACKWARDS: Final = frozenset({Tensor.backward, torch.autograd.backward, torch.autograd.grad})


# What these do is written otherwise as a whole (rewrites.py).
_WHOLE: Final = frozenset({F.dropout, F.alpha_dropout, F.feature_alpha_dropout})
_ASKS: Final = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")


@lru_cache(maxsize=1024)
def body_of(func: Callable[..., Any]) -> Callable[..., Any] | None:
    """The function without its own call of the mode, to be called with one on; None if it has nothing inside."""
    opened = func in BACKWARDS or _is_composite(func)
    if not opened or not isinstance(func, FunctionType):
        return None
    unasked = dict.fromkeys(_ASKS, _has_none)
    body = FunctionType(func.__code__, {**func.__globals__, **unasked}, func.__name__, func.__defaults__)
    body.__kwdefaults__ = func.__kwdefaults__
    return body


def _is_composite(func: Callable[..., Any]) -> bool:
    """Whether it is a function of `torch.nn.functional` that is written in Python, without a closure."""
    if func in _WHOLE or not isinstance(func, FunctionType):
        return False
    return func.__module__ == F.__name__ and func.__globals__ is vars(F) and func.__closure__ is None


def _has_none(*_tensors: Any) -> bool:
    return False
