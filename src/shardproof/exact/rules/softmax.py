"""Softmax and log-softmax. What is subtracted from a row before exp is of no effect, see rules/log_terms.py."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from shardproof.exact.algebra.blockwise import by_rows
from shardproof.exact.algebra.lift import LOWEST, NEGATIVE_INFINITY
from shardproof.exact.algebra.residue import LogFactor, LogTerms, Residue
from shardproof.exact.errors import NotANumberError
from shardproof.exact.rules.log_terms import deepest_taken_away, sum_of_terms, summed_terms, with_zeros
from shardproof.exact.rules.registry import formula
from shardproof.exact.rules.symbols import subtract_from_symbols, with_limit

if TYPE_CHECKING:
    from torch import Tensor

    from shardproof.exact.algebra.residue import Arithmetic


def exponentials(m: Arithmetic, x: Residue, dim: int | list[int] = -1, *, symbols: bool) -> Residue:
    """E of each element, without a shift, which would cancel. Masked elements give 0; a row of nothing but finfo.min
    counts as a row of equal numbers.
    """
    x = deepest_taken_away(x, dim)
    if not symbols:
        return x.exp()
    largest = x.tensor.amax(dim, keepdim=True)
    if bool((largest == NEGATIVE_INFINITY).any()):
        raise NotANumberError("softmax of a row of nothing but -inf is NaN; mask with finfo.min, or leave one element")
    masked = x.tensor < -m.field.half
    exp = with_zeros(x.masked(~masked).exp())
    found = exp.tensor.masked_fill(masked, 0.0).masked_fill_(_uniform(m, x.tensor, dim), 1.0)
    return replace(exp, tensor=found)


def with_empty_rows_equal(x: Residue, dim: int | list[int] = -1) -> tuple[Residue, Tensor]:
    """X with finfo.min in rows of nothing but -inf, whose softmax is no NaN then; and which rows these are."""
    empty = x.tensor.amax(dim, keepdim=True) == NEGATIVE_INFINITY
    return replace(x, tensor=x.tensor.masked_fill(empty, LOWEST)), empty


def log_of_sum(exp: Residue, dims: int | list[int], *, keepdim: bool) -> Residue:
    """log(sum(exp))."""
    return summed_terms(exp, dims, exp.sum(dims, keepdim=keepdim), keepdim=keepdim).log()


def _uniform(m: Arithmetic, x: Tensor, dim: int | list[int]) -> Tensor:
    """The elements of rows of nothing but symbols that are finfo.min: they count as equal numbers."""
    return (x.amax(dim, keepdim=True) < -m.field.half) & (x == LOWEST)


@formula("_softmax.default", symbols=True)
def softmax(m: Arithmetic, x: Residue, dim: int, _half_to_float: Any = None, *, symbols: bool) -> Residue:
    """E(x) / sum(E(x))."""
    if x.ndim == 0:
        return Residue(torch.ones_like(x.tensor), x.degree, m)

    def rows(exp: Residue) -> tuple[Residue]:
        return (exp * exp.sum(-1, keepdim=True).inverse(),)

    if x.has_log_terms or x.depth is not None:
        exp = exponentials(m, x, dim, symbols=symbols)
        found = by_rows(rows, dim, exp)[0]
        return replace(found, logs=None if exp.logs is None else replace(exp.logs, rest=found.degree, whole=0))
    found = by_rows(lambda x: rows(exponentials(m, x, symbols=symbols)), dim, x)[0]
    argument = x.masked(x.tensor >= -m.field.half) if symbols else x
    factor = LogFactor(argument=replace(argument, logs=None))  # of an element that is zero it does not matter
    return replace(found, logs=LogTerms(rest=found.degree, log_factors=(factor,)))


@formula("_safe_softmax.default", symbols=True)
def safe_softmax(m: Arithmetic, x: Residue, dim: int, *, symbols: bool, dtype: Any = None) -> Residue:
    """E(x) / sum(E(x)), and 0 in rows of nothing but -inf: attention's, of a query that sees no key."""
    del dtype
    if not symbols or x.ndim == 0:
        return softmax(m, x, dim, symbols=symbols)
    x, empty = with_empty_rows_equal(x, dim)
    return softmax(m, x, dim, symbols=True).masked(~empty)


@formula("_log_softmax.default", symbols=True)
def log_softmax(m: Arithmetic, x: Residue, dim: int, _half_to_float: Any = None, *, symbols: bool) -> Residue:
    """X - log(sum(E(x)))."""
    if x.ndim == 0:
        return Residue(torch.zeros_like(x.tensor), x.degree, m)

    if x.has_log_terms or x.depth is not None:
        total = log_of_sum(exponentials(m, x, dim, symbols=symbols), dim, keepdim=True)
    else:
        total = by_rows(lambda x: (exponentials(m, x, symbols=symbols).sum(-1, keepdim=True),), dim, x)[0].log()
    if not symbols:
        return sum_of_terms(x, total, x - total, minus=True)
    found = subtract_from_symbols(m, x, total, 1)
    uniform = _uniform(m, x.tensor, dim)
    return replace(found, tensor=torch.where(uniform, -total.tensor, found.tensor))


@formula("_softmax_backward_data.default")
def softmax_backward(m: Arithmetic, grad: Residue, y: Residue, dim: int, _dtype: Any) -> Residue:
    """Y * (grad - sum(grad * y))."""
    degree = y.degree.softmax_backward(grad.degree, y.shape[dim] if y.ndim else 1)

    def rows(grad: Residue, y: Residue) -> tuple[Residue]:
        return (y * (grad - grad.sum_of_products(y, -1, keepdim=True)),)

    (result,) = by_rows(rows, dim, grad, y)
    return Residue(result.tensor, degree, m)


@formula("_log_softmax_backward_data.default", symbols=True)
def log_softmax_backward(m: Arithmetic, grad: Residue, y: Residue, dim: int, _dtype: Any, *, symbols: bool) -> Residue:
    """Grad - exp(y) * sum(grad), y = log_softmax(x)."""
    softmax = with_limit(m, y, Residue.exp, limit=0.0) if symbols else y.exp()

    def rows(grad: Residue, softmax: Residue) -> tuple[Residue]:
        return (grad - softmax * grad.sum(-1, keepdim=True),)

    (result,) = by_rows(rows, dim, grad, softmax)
    return result
