"""Sums, means, variances and standard deviations; cumulative sums."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

from shardproof.exact.rules.log_terms import summed_terms
from shardproof.exact.rules.registry import formula, sums

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from torch import Tensor

    from shardproof.exact.algebra.residue import Arithmetic, Residue


@formula("sum.default")
def sum_all(_m: Arithmetic, x: Residue, *, dtype: torch.dtype | None = None) -> Residue:
    """Over everything."""
    del dtype
    return summed_terms(x, None, x.sum(), keepdim=False)


@formula("sum.dim_IntList")
def sum_dims(
    _m: Arithmetic, x: Residue, dims: Sequence[int] | None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> Residue:
    """Over some dims."""
    del dtype
    return summed_terms(x, dims, x.sum(dims, keepdim=keepdim), keepdim=keepdim)


@formula("mean.default")
def mean_all(_m: Arithmetic, x: Residue, *, dtype: torch.dtype | None = None) -> Residue:
    """The sum times the inverse of the count."""
    del dtype
    return summed_terms(x, None, x.mean(), keepdim=False)


@formula("mean.dim")
def mean_dims(
    _m: Arithmetic, x: Residue, dims: Sequence[int] | None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> Residue:
    """The sum times the inverse of the count."""
    del dtype
    return summed_terms(x, dims, x.mean(dims, keepdim=keepdim), keepdim=keepdim)


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


def _along(result: Tensor, x: Tensor, dim: int, **_kwargs: Any) -> int:
    return x.shape[dim] if x.ndim else 1


sums("cumsum.default", count=_along)
