"""Functions that are replaced above autograd, because PyTorch's own form loses an identity that exact arithmetic keeps.

Clamps: PyTorch computes their backward by comparisons. A gradient would be zero or not by the keyed order of its input,
and a wrong input would go unseen half of the time. Here max(x, c) has the backward that relu has,
an oracle, and min(x, c) = -max(-x, -c): relu(x), x.clamp(min=0) and F.hardtanh agree in gradients as they do in values.

Dropout: see dropout.py.

Attention: one of PyTorch's kernels multiplies queries and keys each by the square root of the scale, which has no exact
residue in general. Here the scale is multiplied into the queries, and each kernel is given a scale of one.
"""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING, Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from shardproof.exact.engine.dropout import call_with_masks, oracle_of
from shardproof.exact.engine.function_bodies import BACKWARDS, body_of

if TYPE_CHECKING:
    from collections.abc import Callable

_aten = torch.ops.aten


class _AtLeast(torch.autograd.Function):
    """max(x, low) forward, the slope's oracle of the result backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float) -> Tensor:
        y: Tensor = _aten.clamp.default(x, low, None)
        ctx.save_for_backward(y)
        ctx.low = low
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (y,) = ctx.saved_tensors
        return _aten.threshold_backward.default(grads[0], y, ctx.low), None


def _clamp(x: Tensor, low: float | None, high: float | None) -> Tensor:
    if low is not None:
        x = _AtLeast.apply(x, low)  # type: ignore[no-untyped-call]
    return x if high is None else -_AtLeast.apply(-x, -high)  # type: ignore[no-untyped-call]


def _both(x: Tensor, min: Any = None, max: Any = None) -> Tensor | None:  # noqa: A002  PyTorch's names
    limits = [_limit(min, -1), _limit(max, 1)]
    return None if any(isinstance(limit, Tensor) for limit in limits) else _clamp(x, limits[0], limits[1])


def _from_below(x: Tensor, min: Any) -> Tensor | None:  # noqa: A002
    return _both(x, min)


def _from_above(x: Tensor, max: Any) -> Tensor | None:  # noqa: A002
    return _both(x, None, max)


def _limit(value: Any, side: int) -> Any:
    """A number that limits: not an infinity or the largest of a dtype, which clamp nothing."""
    if not isinstance(value, int | float):
        return value
    return None if value * side >= torch.finfo(torch.bfloat16).max else value


def _attention(query: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    scale = kwargs.get("scale")
    factor = 1 / sqrt(query.shape[-1]) if scale is None else scale
    return F.scaled_dot_product_attention(query * factor, *args, **{**kwargs, "scale": 1.0})


_CLAMPS: Final[dict[Any, Callable[..., Tensor | None]]] = {
    **dict.fromkeys((torch.clamp, torch.clip, Tensor.clamp, Tensor.clip), _both),
    **dict.fromkeys((torch.clamp_min, Tensor.clamp_min), _from_below),
    **dict.fromkeys((torch.clamp_max, Tensor.clamp_max), _from_above),
}


class Rewrites(TorchFunctionMode):
    """Calls functions in the forms of this file; a mode of its own for what a checkpoint computes again.

    Args:
        oracles: dropout is replaced, its mask an oracle of each element.
    """

    def __init__(self, *, oracles: bool) -> None:
        super().__init__()
        self._oracles = oracles

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return self.call(func, args, kwargs or {}, inside=self)

    def call(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], *, inside: TorchFunctionMode
    ) -> Any:
        """The function's result; what is called in its own body goes through the mode `inside`."""
        body = body_of(func)
        if body is not None:
            with self if func in BACKWARDS else inside:
                return body(*args, **kwargs)
        if self._oracles:
            dropped = call_with_masks(func, args, kwargs, oracle_of, inside=inside)
            if dropped is not None:
                return dropped
        otherwise = _rewritten(func, args, kwargs)
        return func(*args, **kwargs) if otherwise is None else otherwise


def _rewritten(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """The function's result where it is replaced; None where it is to run as it is."""
    if func is F.scaled_dot_product_attention:
        return None if kwargs.get("scale") == 1.0 else _attention(*args, **kwargs)
    function = _CLAMPS.get(func)
    if function is None or not torch.is_grad_enabled() or "out" in kwargs:
        return None
    x = args[0] if args else kwargs.get("input")
    inside_transform = torch._C._functorch.peek_interpreter_stack() is not None
    if not isinstance(x, Tensor) or not x.requires_grad or inside_transform:
        return None
    return function(x, *args[1:], **{name: value for name, value in kwargs.items() if name != "input"})
