"""Scatter and its relatives: sums, products, means and extremes at positions given by integers; pads and folds."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from shardproof.exact.errors import UnsupportedOpError
from shardproof.exact.rules.order import from_ranks, to_ranks
from shardproof.exact.rules.registry import formula, moves, selects, sums

if TYPE_CHECKING:
    from shardproof.exact.algebra.residue import Arithmetic, Residue


# Sums at positions given by integers ----------------------------------------------------------------------------------


def _embedding(_result: Tensor, _grad: Tensor, indices: Tensor, *_args: Any, **_kwargs: Any) -> int:
    return indices.numel()


def _indexed(_result: Tensor, _self: Tensor, dim: int, index: Tensor, *_args: Any, **_kwargs: Any) -> int:
    return 1 + index.numel()


def _scattered(_result: Tensor, _self: Tensor, dim: int, index: Tensor, *_args: Any, **_kwargs: Any) -> int:
    return 1 + (index.shape[dim] if index.ndim else 1)


def _put(_result: Tensor, _self: Tensor, indices: list[Tensor | None], values: Tensor, *_args: Any) -> int:
    return 1 + max((i.numel() for i in indices if i is not None), default=values.numel())


sums("embedding_dense_backward.default", count=_embedding)
sums("index_add.default", count=_indexed)
sums("scatter_add.default", count=_scattered)
sums("index_put.default", "_unsafe_index_put.default", count=_put)


# Pads and folds -------------------------------------------------------------------------------------------------------

moves("reflection_pad3d.default", "replication_pad3d.default")


def _copies(result: Tensor, grad: Tensor, *_args: Any, **_kwargs: Any) -> int:
    return max(1, grad.numel() // max(result.shape[0] * result.shape[1] if result.ndim > 2 else 1, 1))


sums(
    *("reflection_pad1d_backward.default", "reflection_pad2d_backward.default", "reflection_pad3d_backward.default"),
    *("replication_pad1d_backward.default", "replication_pad2d_backward.default", "replication_pad3d_backward.default"),
    *("unfold_backward.default", "col2im.default", "trace.default"),
    count=_copies,
)


# Reductions of what meets at one position -----------------------------------------------------------------------------


def _every_source(_result: Tensor, *args: Any, **_kwargs: Any) -> int:
    return 1 + max(x.numel() for x in args if isinstance(x, Tensor))


sums("put.default", "_unsafe_masked_index_put_accumulate.default", count=_every_source)


def _along(index: Tensor, dim: int, like: Tensor) -> Tensor:
    """A one-dimensional index for `scatter`: the same in every other dim of `like`."""
    shape = [1] * like.ndim
    shape[dim] = -1
    return index.reshape(shape).expand(like.shape)


@formula("index_reduce.default")
def index_reduce(
    m: Arithmetic, x: Residue, dim: int, index: Tensor, source: Residue, reduce: str, *, include_self: bool = True
) -> Residue:
    """scatter_reduce with the same index everywhere."""
    if x.ndim == 0:
        one = [t.moved(lambda t: t.reshape(1)) for t in (x, source)]
        found = index_reduce(m, one[0], 0, index.reshape(1), one[1], reduce, include_self=include_self)
        return found.moved(lambda t: t.reshape(()))
    return scatter_reduce(m, x, dim, _along(index, dim, source.tensor), source, reduce, include_self=include_self)


@formula("scatter_reduce.two")
def scatter_reduce(
    m: Arithmetic, x: Residue, dim: int, index: Tensor, source: Residue, reduce: str, *, include_self: bool = True
) -> Residue:
    """At each position the sum, mean, product, largest or least (in the keyed order) of the elements sent there."""
    count = 1 + (index.shape[dim] if index.ndim else 1)
    degree = (x.degree | source.degree).sum_of(count)
    if reduce in ("amax", "amin"):
        ranks = [to_ranks(m, t.tensor) for t in (x, source)]
        best = ranks[0].scatter_reduce(dim, index, ranks[1], reduce, include_self=include_self)
        return m.residue(from_ranks(m, best), (x.degree | source.degree).selected_from(count))
    if reduce == "prod":
        return m.residue(_product(m, x, dim, index, source, include_self=include_self), degree.power(count))
    met = x.tensor.scatter_reduce(dim, index, source.tensor, "sum", include_self=include_self)
    total = m.residue(m.field.reduce_(met), degree)
    if reduce == "sum":
        return total
    if reduce != "mean":
        raise UnsupportedOpError(f"scatter_reduce with reduce = {reduce!r} has no exact rule")
    ones = torch.full_like(x.tensor, 1.0 if include_self else 0.0)
    counts = ones.scatter_add(dim, index, torch.ones_like(source.tensor))
    return total / m.residue(m.field.reduce_(counts.clamp_(min=1)))


def _product(m: Arithmetic, x: Residue, dim: int, index: Tensor, source: Residue, *, include_self: bool) -> Tensor:
    """In rounds: in each, every position is multiplied by one of the factors that are left for it."""
    if x.ndim == 0:
        return _product_of_scalars(m, x, source, include_self=include_self)
    result = x.tensor.clone()
    part = source.tensor[tuple(slice(n) for n in index.shape)]
    if not include_self:
        result.scatter_(dim, index, 1.0)
    left = torch.ones_like(index, dtype=torch.bool)
    order = torch.arange(index.shape[dim], dtype=torch.float64, device=index.device)
    positions = _along(order, dim, index)
    while bool(left.any()):
        waiting = positions.masked_fill(~left, inf)
        first = torch.full(x.shape, inf, dtype=torch.float64, device=index.device)
        first = first.scatter_reduce(dim, index, waiting, "amin")
        now = left & (first.gather(dim, index) == positions)
        factors = torch.ones_like(result)
        factors.scatter_reduce_(
            dim, index, torch.where(now, part, 1.0), "prod"
        )  # one factor for each position, the others are ones
        result = m.field.multiply(result, factors)
        left &= ~now
    return result


def _product_of_scalars(m: Arithmetic, x: Residue, source: Residue, *, include_self: bool) -> Tensor:
    return m.field.multiply(x.tensor, source.tensor) if include_self else source.tensor.reshape(()).clone()


selects("scatter_reduce.two", "index_reduce.default")


@formula("masked_scatter_backward.default")
def masked_scatter_backward(_m: Arithmetic, grad: Residue, mask: Tensor, sizes: list[int]) -> Residue:
    """The gradient's elements where the mask holds, in order, then zeros."""

    def gathered(t: Tensor) -> Tensor:
        chosen = t.masked_select(mask.expand(t.shape))
        result = t.new_zeros(torch.Size(sizes).numel())
        result[: chosen.numel()] = chosen[: result.numel()]
        return result.reshape(sizes)

    return grad.moved(gathered)
