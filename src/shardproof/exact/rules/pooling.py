"""Average pools over windows, as a sum times the inverse of a count; the backward of maximum pools."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from shardproof.exact.rules.registry import find_op, formula, sums

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shardproof.exact.algebra.residue import Arithmetic, Residue


def _register_average_pool(dims: int) -> None:
    """PyTorch's op with a divisor of one adds windows up exactly; what it divides by otherwise is asked with ones."""
    forward_op, backward_op = find_op(f"avg_pool{dims}d.default"), find_op(f"avg_pool{dims}d_backward.default")

    def counts(m: Arithmetic, x: Tensor, args: tuple[Any, ...], override: int | None) -> Residue:
        ones = torch.ones((1, *x.shape[-dims:]), dtype=torch.float64, device=x.device)
        elements = forward_op(ones, *args, 1)
        numbers = (
            torch.full_like(elements, override) if override else (elements / forward_op(ones, *args, None)).round()
        )
        return m.residue(m.field.reduce_(numbers))

    def forward(
        m: Arithmetic,
        x: Residue,
        kernel: Sequence[int],
        stride: Sequence[int] = (),
        padding: Sequence[int] = (0,),
        ceil_mode: bool = False,
        count_padding: bool = True,
        override: int | None = None,
    ) -> Residue:
        args = (kernel, stride, padding, ceil_mode, count_padding)
        total = m.field.reduce_(forward_op(x.tensor, *args, 1))
        size = max(kernel) ** dims
        return m.residue(total, x.degree.sum_of(size)) / counts(m, x.tensor, args, override)

    def backward(
        m: Arithmetic,
        grad: Residue,
        x: Residue,
        kernel: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        ceil_mode: bool,
        count_padding: bool,
        override: int | None,
    ) -> Residue:
        args = (kernel, stride, padding, ceil_mode, count_padding)
        shares = grad / counts(m, x.tensor, args, override)
        spread = m.field.reduce_(backward_op(shares.tensor, x.tensor, *args, 1))
        return m.residue(spread, shares.degree.sum_of(max(kernel) ** dims))

    formula(f"avg_pool{dims}d.default")(forward)
    formula(f"avg_pool{dims}d_backward.default")(backward)


_register_average_pool(2)
_register_average_pool(3)


def _chosen_by_windows(result: Tensor, grad: Tensor, *_args: Any, **_kwargs: Any) -> int:
    return grad.numel()


sums(
    *("max_pool2d_with_indices_backward.default", "max_pool3d_with_indices_backward.default"),
    *("adaptive_max_pool2d_backward.default", "adaptive_max_pool3d_backward.default"),
    count=_chosen_by_windows,
)
