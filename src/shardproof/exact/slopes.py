"""Clamps above autograd: their backward as the oracle that it is.

PyTorch writes the backward of `clamp` with comparisons, so that a gradient would be there or not by the keyed order of
its input, and a wrong input would vanish behind a zero one time in two. Here max(x, c) has the backward that relu has,
and min(x, c) = -max(-x, -c): relu(x), x.clamp(min=0) and F.hardtanh agree in their gradients as they do in their values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

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


_FUNCTIONS: Final[dict[Any, Callable[..., Tensor | None]]] = {
    **dict.fromkeys((torch.clamp, torch.clip, Tensor.clamp, Tensor.clip), _both),
    **dict.fromkeys((torch.clamp_min, Tensor.clamp_min), _from_below),
    **dict.fromkeys((torch.clamp_max, Tensor.clamp_max), _from_above),
}


def with_slopes(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """The function's result where it is a clamp by numbers that autograd is to go back through; None where it is not."""
    function = _FUNCTIONS.get(func)
    if function is None or not torch.is_grad_enabled() or "out" in kwargs:
        return None
    x = args[0] if args else kwargs.get("input")
    if not isinstance(x, Tensor) or not x.requires_grad or torch._C._functorch.peek_interpreter_stack() is not None:
        return None
    return function(x, *args[1:], **{name: value for name, value in kwargs.items() if name != "input"})
