"""Sums, means and what is made of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
    return x.sum()


@formula("sum.dim_IntList")
def sum_dims(
    _m: Arithmetic, x: Residue, dims: Sequence[int] | None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> Residue:
    """Over some dims."""
    del dtype
    return x.sum(dims, keepdim=keepdim)


@formula("mean.default")
def mean_all(_m: Arithmetic, x: Residue, *, dtype: torch.dtype | None = None) -> Residue:
    """The sum times the inverse of the count."""
    del dtype
    return x.mean()


@formula("mean.dim")
def mean_dims(
    _m: Arithmetic, x: Residue, dims: Sequence[int] | None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> Residue:
    """The sum times the inverse of the count."""
    del dtype
    return x.mean(dims, keepdim=keepdim)


def _along(result: Tensor, x: Tensor, dim: int, **_kwargs: Any) -> int:
    return x.shape[dim] if x.ndim else 1


sums("cumsum.default", count=_along)
