"""Layer, group and batch norm, and the variance. Each as in its paper's formula, so that hand-written forms meet it."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from shardproof.exact.rules.registry import formula

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shardproof.exact.algebra.residue import Arithmetic, Residue


@formula("native_layer_norm.default")
def layer_norm(
    _m: Arithmetic, x: Residue, shape: Sequence[int], weight: Residue | None, bias: Residue | None, eps: float
) -> tuple[Residue, Residue, Residue]:
    """(x - mean) / sqrt(var + eps) * weight + bias, the mean, and 1 / sqrt(var + eps). Ba et al. 2016, equation 4."""
    dims = tuple(range(x.ndim - len(shape), x.ndim))
    mean = x.mean(dims, keepdim=True)
    centred = x - mean
    rstd = ((centred * centred).mean(dims, keepdim=True) + eps).sqrt().inverse()
    y = centred * rstd
    y = y if weight is None else y * weight
    return (y if bias is None else y + bias), mean, rstd


@formula("native_layer_norm_backward.default")
def layer_norm_backward(
    _m: Arithmetic,
    grad: Residue,
    x: Residue,
    shape: Sequence[int],
    mean: Residue,
    rstd: Residue,
    weight: Residue | None,
    bias: Residue | None,
    mask: Sequence[bool],
) -> tuple[Residue | None, Residue | None, Residue | None]:
    """With n = (x - mean) * rstd, g = grad * weight: dx = rstd * (g - mean(g) - n * mean(g * n)), dw = sum(grad*n)."""
    inner = tuple(range(x.ndim - len(shape), x.ndim))
    outer = tuple(range(x.ndim - len(shape)))
    normalized = (x - mean) * rstd
    dx = dw = db = None
    if mask[0]:
        g = grad if weight is None else grad * weight
        dx = rstd * (g - g.mean(inner, keepdim=True) - normalized * (g * normalized).mean(inner, keepdim=True))
    if mask[1] and weight is not None:
        dw = (grad * normalized).sum(outer) if outer else grad * normalized
    if mask[2] and bias is not None:
        db = grad.sum(outer) if outer else grad
    return dx, dw, db


def variance(x: Residue, dims: Sequence[int] | None, correction: float, *, keepdim: bool) -> tuple[Residue, Residue]:
    """sum((x - mean)**2) / (count - correction), and the mean."""
    over = tuple(range(x.ndim)) if dims is None or len(dims) == 0 else tuple(dims)
    mean = x.mean(over, keepdim=True)
    centred = x - mean
    total = (centred * centred).sum(over, keepdim=keepdim)
    count = prod(x.shape[d] for d in over)
    if not keepdim:
        mean = mean.moved(lambda t: t.squeeze(over))
    return total / (count - correction), mean


@formula("var.correction")
def var(
    _m: Arithmetic,
    x: Residue,
    dims: Sequence[int] | None = None,
    *,
    correction: float | None = None,
    keepdim: bool = False,
) -> Residue:
    """The variance."""
    return variance(x, dims, 1 if correction is None else correction, keepdim=keepdim)[0]


@formula("var_mean.correction")
def var_mean(
    _m: Arithmetic,
    x: Residue,
    dims: Sequence[int] | None = None,
    *,
    correction: float | None = None,
    keepdim: bool = False,
) -> tuple[Residue, Residue]:
    """The variance and the mean."""
    return variance(x, dims, 1 if correction is None else correction, keepdim=keepdim)


@formula("std.correction")
def std(
    _m: Arithmetic,
    x: Residue,
    dims: Sequence[int] | None = None,
    *,
    correction: float | None = None,
    keepdim: bool = False,
) -> Residue:
    """The square root of the variance."""
    return variance(x, dims, 1 if correction is None else correction, keepdim=keepdim)[0].sqrt()
