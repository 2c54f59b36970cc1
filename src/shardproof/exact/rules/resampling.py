"""Maps that are linear and separate by dims, as products with a matrix of constants for each dim: pools and resampling.

The matrix of a dim is what PyTorch's own op makes of the unit vectors along it: its entries are constants like 1/3 or
0.75, which are lifted as any constant is. The backward is the transposed matrix.
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


def _averaging(m: Arithmetic, size: int, places: int, like: Tensor) -> Residue:
    """Row i averages the elements from floor(i * size / places) up to ceil((i + 1) * size / places)."""
    matrix = torch.zeros(places, size, dtype=torch.float64)
    for i in range(places):
        start, stop = i * size // places, ceil((i + 1) * size / places)
        matrix[i, start:stop] = _inverse(m, stop - start)
    return m.residue(matrix.to(like.device))


def _inverse(m: Arithmetic, count: int) -> int:
    return m.field.representative(pow(count, -1, m.field.prime))


def _adaptive(name: str, dims: int) -> None:
    def forward(m: Arithmetic, x: Residue, places: Sequence[int]) -> Residue:
        wanted = tuple(places) * dims if len(places) == 1 else tuple(places)
        return apply_along(x, [_averaging(m, s, p, x.tensor) for s, p in zip(x.shape[-dims:], wanted, strict=True)])

    def backward(m: Arithmetic, grad: Residue, x: Residue) -> Residue:
        pairs = zip(x.shape[-dims:], grad.shape[-dims:], strict=True)
        return apply_along(grad, [_averaging(m, s, p, x.tensor).transpose() for s, p in pairs])

    formula(f"{name}.default")(forward)
    formula(f"{name}_backward.default")(backward)


_adaptive("_adaptive_avg_pool2d", 2)
_adaptive("_adaptive_avg_pool3d", 3)


# A weight is what is left of a difference of coordinates, so that its last bits are noise.
_BITS = 44


# Resampling -----------------------------------------------------------------------------------------------------------


def _resampling(name: str, dims: int, line: str, *, corners: bool) -> None:
    """An upsampling op in `dims` dims whose matrices are those of `line`, an op like it that is given one dim."""

    def matrices(m: Arithmetic, sizes: Sequence[int], places: Sequence[int], options: Sequence[Any]) -> list[Residue]:
        align, scales = (options[0], options[1:]) if corners else (None, options)
        scales = [*scales, *[None] * (dims - len(scales))]
        return [
            m.residue(m.lift.tensor(_matrix(line, size, place, align, scale), bits=_BITS))
            for size, place, scale in zip(sizes, places, scales, strict=True)
        ]

    def forward(m: Arithmetic, x: Residue, places: Sequence[int], *options: Any, **named: Any) -> Residue:
        return apply_along(x, matrices(m, x.shape[-dims:], places, [*options, *named.values()]))

    def backward(
        m: Arithmetic, grad: Residue, places: Sequence[int], sizes: Sequence[int], *options: Any, **named: Any
    ) -> Residue:
        found = matrices(m, sizes[-dims:], places, [*options, *named.values()])
        return apply_along(grad, [matrix.transpose() for matrix in found])

    formula(f"{name}.default")(forward)
    formula(f"{name}_backward.default")(backward)


def _matrix(line: str, size: int, places: int, align: bool | None, scale: float | None) -> Tensor:
    """(places, size): what the op makes of the unit vectors; a two-dimensional op is given a dim of one beside it."""
    units = torch.eye(size, dtype=torch.float64).unsqueeze(0)
    op: Callable[..., Tensor] = find_op(f"{line}.default")
    options = () if align is None else (align,)
    if line.endswith("2d"):
        found = op(units.unsqueeze(2), [1, places], *options, None, scale).squeeze(2)
    else:
        found = op(units, [places], *options, scale)
    return torch.where(found.abs() < 2.0**-_BITS, 0.0, found)[0].t().contiguous()


for _name, _dims in (("1d", 1), ("2d", 2), ("3d", 3)):
    _resampling(f"upsample_nearest{_name}", _dims, "upsample_nearest1d", corners=False)
    _resampling(f"_upsample_nearest_exact{_name}", _dims, "_upsample_nearest_exact1d", corners=False)
_resampling("upsample_linear1d", 1, "upsample_linear1d", corners=True)
_resampling("upsample_bilinear2d", 2, "upsample_linear1d", corners=True)
_resampling("upsample_trilinear3d", 3, "upsample_linear1d", corners=True)
_resampling("upsample_bicubic2d", 2, "upsample_bicubic2d", corners=True)
_resampling("_upsample_bilinear2d_aa", 2, "_upsample_bilinear2d_aa", corners=True)
_resampling("_upsample_bicubic2d_aa", 2, "_upsample_bicubic2d_aa", corners=True)
