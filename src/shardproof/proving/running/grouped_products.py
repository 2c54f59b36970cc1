"""Grouped matrix products in ordinary runs: in float64 too, and with NaN in rows that PyTorch leaves unwritten.

PyTorch has kernels for narrower dtypes alone. They write no row that no group has, neither of the result nor of the
operand's gradient; a program that uses such a row computes with whatever was in memory there. NaN makes that visible.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from shardproof.exact.algebra.groups import multiply_groups

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_FUNCTIONS = (F.grouped_mm, torch._grouped_mm)  # noqa: SLF001
_PLAIN = (Tensor, torch.nn.Parameter)


@contextmanager
def grouped_products_followed() -> Iterator[None]:
    """Inside, `F.grouped_mm` takes float64, and rows that it leaves unwritten are NaN, forward and backward."""
    with _Followed():
        yield


class _Followed(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _FUNCTIONS and all(type(x) in _PLAIN for x in args[:2]):
            return _multiply(func, *args, **kwargs)
        return func(*args, **kwargs)


def _multiply(func: Callable[..., Any], a: Tensor, b: Tensor, *, offs: Tensor | None = None, **named: Any) -> Tensor:
    """The product, NaN in the rows of `a` or the columns of `b` that no group has."""
    dim = _grouped_dim(a, b)
    if offs is None or not len(offs) or dim is None:
        return _compute(func, a, b, offs, named)
    count, end = (a if dim == 0 else b).shape[dim], int(offs[-1])
    if end >= count:
        return _compute(func, a, b, offs, named)
    outside = torch.arange(count, device=a.device) >= end
    outside = outside.unsqueeze(-1) if dim == 0 else outside
    a, b = (_WithoutGradient.apply(a, outside), b) if dim == 0 else (a, _WithoutGradient.apply(b, outside))  # type: ignore[no-untyped-call]
    return _compute(func, a, b, offs, named).masked_fill(outside, float("nan"))


def _grouped_dim(a: Tensor, b: Tensor) -> int | None:
    """The dim of the result in which groups lie beside each other; None where each is a matrix of its own."""
    return None if a.ndim == b.ndim else 0 if a.ndim == 2 else 1


def _compute(func: Callable[..., Any], a: Tensor, b: Tensor, offs: Tensor | None, named: dict[str, Any]) -> Tensor:
    """By PyTorch's kernel, or in float64 group by group."""
    if a.dtype != torch.float64 or b.dtype != torch.float64 or any(x is not None for x in named.values()):
        found: Tensor = func(a, b, offs=offs, **named)
        return found
    if offs is None:
        return a @ b
    product: Tensor = _Grouped.apply(a, b, offs)  # type: ignore[no-untyped-call]
    return product


class _Grouped(torch.autograd.Function):
    """Product of groups in float64; its gradients are products of groups too."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, offsets: Tensor) -> Tensor:
        ctx.save_for_backward(a, b, offsets)
        return multiply_groups(torch.matmul, a, b, offsets.tolist())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        a, b, offsets = ctx.saved_tensors
        ends = offsets.tolist()
        return (
            multiply_groups(torch.matmul, gradient, b.mT, ends),  # da = dy b^T
            multiply_groups(torch.matmul, a.mT, gradient, ends),  # db = a^T dy
            None,
        )


class _WithoutGradient(torch.autograd.Function):
    """Identity forward; NaN in some places of the gradient backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, where: Tensor) -> Tensor:
        ctx.where = where
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient.masked_fill(ctx.where, float("nan")), None
