"""Products along dims, and sums under a logarithm."""

from __future__ import annotations

from dataclasses import replace
from math import isinf
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from shardproof.exact.rules.log_terms import least_depth
from shardproof.exact.rules.piecewise import absolute, sign
from shardproof.exact.rules.powers import power, vector_norm
from shardproof.exact.rules.registry import formula
from shardproof.exact.rules.softmax import exponentials, log_of_sum, with_empty_rows_equal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from shardproof.exact.algebra.degree import Degree
    from shardproof.exact.algebra.residue import Arithmetic, Residue


def _degree_of_product(degree: Degree, count: int) -> Degree:
    return degree.product_of(max(count, 1))


@formula("prod.default")
def product_of_all(m: Arithmetic, x: Residue, *, dtype: torch.dtype | None = None) -> Residue:
    """Over everything."""
    del dtype
    return product_along(m, x.moved(lambda t: t.reshape(-1)), 0)


@formula("prod.dim_int")
def product_along(
    m: Arithmetic, x: Residue, dim: int, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> Residue:
    """Over one dim, by halves."""
    del dtype
    if x.ndim == 0:
        return x.moved(torch.clone)
    rest, count = x.tensor.movedim(dim, 0), x.shape[dim]
    if count == 0:
        rest = torch.ones((1, *rest.shape[1:]), dtype=torch.float64, device=rest.device)
    while rest.shape[0] > 1:
        half = rest.shape[0] // 2
        pairs = m.field.multiply(rest[:half], rest[half : 2 * half])
        rest = torch.cat((pairs, rest[2 * half :])) if rest.shape[0] % 2 else pairs
    found = rest.movedim(0, dim).clone() if keepdim else rest[0].clone()
    return m.residue(found, _degree_of_product(x.degree, count))


def _running(x: Tensor, dim: int, combine: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """All prefixes, each twice as long a step as the one before (Hillis and Steele 1986)."""
    found, step = x.movedim(dim, 0).clone(), 1
    while step < found.shape[0]:
        found = torch.cat((found[:step], combine(found[step:], found[:-step])))
        step *= 2
    return found.movedim(0, dim).contiguous()


@formula("cumprod.default")
def running_product(m: Arithmetic, x: Residue, dim: int, *, dtype: torch.dtype | None = None) -> Residue:
    """The product of all elements up to each."""
    del dtype
    if x.ndim == 0:
        return x.moved(torch.clone)
    return m.residue(_running(x.tensor, dim, m.field.multiply), _degree_of_product(x.degree, x.shape[dim]))


@formula("logsumexp.default", symbols=True)
def log_sum_exp(
    m: Arithmetic, x: Residue, dims: Sequence[int] | int, keepdim: bool = False, *, symbols: bool
) -> Residue:
    """log(sum(E(x))); a row of nothing but finfo.min stays at finfo.min, one of nothing but -inf at -inf."""
    if x.ndim == 0:
        return x.moved(torch.clone)
    over = [dims] if isinstance(dims, int) else list(dims)
    over = sorted({d % x.ndim for d in over or range(x.ndim)})
    exp = exponentials(m, with_empty_rows_equal(x, over)[0] if symbols else x, over, symbols=symbols)
    found = least_depth(x, over, log_of_sum(exp, over, keepdim=keepdim), keepdim=keepdim)
    if not symbols:
        return found
    largest = x.tensor.amax(over, keepdim=keepdim)
    return replace(found, tensor=torch.where(largest < -m.field.half, largest, found.tensor))


@formula("logcumsumexp.default")
def log_running_sum_exp(m: Arithmetic, x: Residue, dim: int) -> Residue:
    """log(sum of E(x) up to each element)."""
    if x.ndim == 0:
        return x.moved(torch.clone)
    exp = x.exp()
    return m.residue(m.field.reduce_(exp.tensor.cumsum(dim)), exp.degree.sum_of(x.shape[dim])).log()


@formula("_cdist_forward.default")
def distances(m: Arithmetic, x: Residue, y: Residue, order: float, _compute_mode: int | None) -> Residue:
    """The norm of x[..., i, :] - y[..., j, :]."""
    difference = x.moved(lambda t: t.unsqueeze(-2)) - y.moved(lambda t: t.unsqueeze(-3))
    return vector_norm(m, difference, order, [-1])


@formula("_pdist_forward.default")
def distances_of_pairs(m: Arithmetic, x: Residue, order: float = 2) -> Residue:
    """The norm of x[i] - x[j] for i < j."""
    i, j = torch.triu_indices(x.shape[0], x.shape[0], 1)
    return vector_norm(m, x.moved(lambda t: t[i]) - x.moved(lambda t: t[j]), order, [-1])


@formula("nansum.default")
def sum_of_numbers(
    _m: Arithmetic,
    x: Residue,
    dims: Sequence[int] | None = None,
    keepdim: bool = False,
    *,
    dtype: torch.dtype | None = None,
) -> Residue:
    """The sum: every residue is a number."""
    del dtype
    return x.sum(dims, keepdim=keepdim)


@formula("_cdist_backward.default")
def distances_backward(m: Arithmetic, grad: Residue, x: Residue, y: Residue, order: float, found: Residue) -> Residue:
    """The sum over j of grad * sign(d) * (|d| / distance)**(p - 1), d = x[i] - y[j]; 0 where the distance is."""
    difference = x.moved(lambda t: t.unsqueeze(-2)) - y.moved(lambda t: t.unsqueeze(-3))
    weights = grad.moved(lambda t: t.unsqueeze(-1))
    if order == 0:
        return m.residue(torch.zeros_like(x.tensor))
    if order == 1:
        return (weights * sign(m, difference)).sum(-2)
    if isinf(order):
        raise NotImplementedError("the slope of the largest difference; distances of finite order are")
    apart = m.residue(found.tensor.masked_fill(found.tensor == 0, 1.0), found.degree).moved(lambda t: t.unsqueeze(-1))
    if order == 2:
        return (weights * difference / apart).sum(-2)
    size = absolute(m, difference)
    # As PyTorch has the slope of a norm.
    steep = difference * power(m, size, order - 2) if order > 2 else sign(m, difference) * power(m, size, order - 1)
    return (weights * steep / power(m, apart, order - 1)).sum(-2)


@formula("_trilinear.default")
def trilinear(
    _m: Arithmetic,
    x: Residue,
    y: Residue,
    z: Residue,
    expand_x: Sequence[int],
    expand_y: Sequence[int],
    expand_z: Sequence[int],
    dims: Sequence[int],
    _unroll: int = 1,
) -> Residue:
    """The sum over `dims` of the product of three tensors, each with new dims of size 1 where it lacks them."""

    def expanded(operand: Residue, new: Sequence[int]) -> Residue:
        tensor = operand.tensor
        for dim in sorted(new):
            tensor = tensor.unsqueeze(dim)
        return operand.moved(lambda _: tensor)

    product = expanded(x, expand_x) * expanded(y, expand_y) * expanded(z, expand_z)
    return product.sum(dims) if dims else product
