"""Adaptive average pools and interpolation: linear maps, as a product with a matrix of constants along each dim.

The matrix of a dim is the result of PyTorch's own op on the unit vectors along it. Its entries are constants like 1/3
or 0.75, lifted like any constant. The backward is the transposed matrix.
"""

from __future__ import annotations

from functools import partial
from math import ceil
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from shardproof.exact.rules.registry import find_op, formula

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from shardproof.exact.algebra.residue import Arithmetic, Residue


def apply_along(x: Residue, matrices: Sequence[Residue]) -> Residue:
    """The last len(matrices) dims each multiplied by a matrix (out, in)."""
    for position, matrix in enumerate(matrices):
        dim = x.ndim - len(matrices) + position
        turned = x.moved(partial(torch.movedim, source=dim, destination=-1)) @ matrix.transpose()
        x = turned.moved(partial(torch.movedim, source=-1, destination=dim)).moved(Tensor.contiguous)
    return x


# Adaptive average pools -----------------------------------------------------------------------------------------------


def _averaging(m: Arithmetic, size: int, output_size: int, like: Tensor) -> Residue:
    """Row i averages the elements from floor(i * size / output_size) up to ceil((i + 1) * size / output_size)."""
    matrix = torch.zeros(output_size, size, dtype=torch.float64)
    for i in range(output_size):
        start, stop = i * size // output_size, ceil((i + 1) * size / output_size)
        matrix[i, start:stop] = _inverse(m, stop - start)
    return m.residue(matrix.to(like.device))


def _inverse(m: Arithmetic, count: int) -> int:
    return m.field.representative(pow(count, -1, m.field.prime))


def _register_adaptive_pool(name: str, dims: int) -> None:
    def forward(m: Arithmetic, x: Residue, output_size: Sequence[int]) -> Residue:
        wanted = tuple(output_size) * dims if len(output_size) == 1 else tuple(output_size)
        return apply_along(x, [_averaging(m, s, p, x.tensor) for s, p in zip(x.shape[-dims:], wanted, strict=True)])

    def backward(m: Arithmetic, grad: Residue, x: Residue) -> Residue:
        pairs = zip(x.shape[-dims:], grad.shape[-dims:], strict=True)
        return apply_along(grad, [_averaging(m, s, p, x.tensor).transpose() for s, p in pairs])

    formula(f"{name}.default")(forward)
    formula(f"{name}_backward.default")(backward)


_register_adaptive_pool("_adaptive_avg_pool2d", 2)
_register_adaptive_pool("_adaptive_avg_pool3d", 3)


# A weight is a difference of coordinates: its last bits are rounding noise.
_BITS = 44


# Resampling -----------------------------------------------------------------------------------------------------------


def _register_resampling(name: str, dims: int, line: str, *, corners: bool) -> None:
    """An upsampling op in `dims` dims whose matrices are those of `line`, an op like it that is given one dim."""

    def matrices(
        m: Arithmetic, sizes: Sequence[int], output_size: Sequence[int], options: Sequence[Any]
    ) -> list[Residue]:
        align, scales = (options[0], options[1:]) if corners else (None, options)
        scales = [*scales, *[None] * (dims - len(scales))]
        return [
            m.residue(m.lift.tensor(_matrix(line, size, output, align, scale), bits=_BITS))
            for size, output, scale in zip(sizes, output_size, scales, strict=True)
        ]

    def forward(m: Arithmetic, x: Residue, output_size: Sequence[int], *options: Any, **named: Any) -> Residue:
        return apply_along(x, matrices(m, x.shape[-dims:], output_size, [*options, *named.values()]))

    def backward(
        m: Arithmetic, grad: Residue, output_size: Sequence[int], sizes: Sequence[int], *options: Any, **named: Any
    ) -> Residue:
        found = matrices(m, sizes[-dims:], output_size, [*options, *named.values()])
        return apply_along(grad, [matrix.transpose() for matrix in found])

    formula(f"{name}.default")(forward)
    formula(f"{name}_backward.default")(backward)


def _matrix(line: str, size: int, output_size: int, align: bool | None, scale: float | None) -> Tensor:
    """(output_size, size): the op's result on the unit vectors. A two-dimensional op gets a second dim of size one."""
    units = torch.eye(size, dtype=torch.float64).unsqueeze(0)
    op: Callable[..., Tensor] = find_op(f"{line}.default")
    options = () if align is None else (align,)
    if line.endswith("2d"):
        found = op(units.unsqueeze(2), [1, output_size], *options, None, scale).squeeze(2)
    else:
        found = op(units, [output_size], *options, scale)
    return torch.where(found.abs() < 2.0**-_BITS, 0.0, found)[0].t().contiguous()


for _name, _dims in (("1d", 1), ("2d", 2), ("3d", 3)):
    _register_resampling(f"upsample_nearest{_name}", _dims, "upsample_nearest1d", corners=False)
    _register_resampling(f"_upsample_nearest_exact{_name}", _dims, "_upsample_nearest_exact1d", corners=False)
_register_resampling("upsample_linear1d", 1, "upsample_linear1d", corners=True)
_register_resampling("upsample_bilinear2d", 2, "upsample_linear1d", corners=True)
_register_resampling("upsample_trilinear3d", 3, "upsample_linear1d", corners=True)
_register_resampling("upsample_bicubic2d", 2, "upsample_bicubic2d", corners=True)
_register_resampling("_upsample_bilinear2d_aa", 2, "_upsample_bilinear2d_aa", corners=True)
_register_resampling("_upsample_bicubic2d_aa", 2, "_upsample_bicubic2d_aa", corners=True)
