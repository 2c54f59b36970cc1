"""Softmax and log-softmax in the stable form: less the maximum, exp, sum; a vocabulary-parallel loss meets them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from shardproof.exact.algebra.blockwise import by_rows
from shardproof.exact.algebra.lift import LOWEST, NEGATIVE_INFINITY
from shardproof.exact.algebra.residue import Residue
from shardproof.exact.errors import NotANumberError
from shardproof.exact.rules.registry import formula, selects

if TYPE_CHECKING:
    from shardproof.exact.algebra.degree import Degree
    from shardproof.exact.algebra.residue import Arithmetic


def shifted_exp(m: Arithmetic, x: Residue, dim: int = -1, *, symbols: bool) -> tuple[Residue, Residue]:
    """X - max(x) and E of it. Masked elements give 0; a row of nothing but finfo.min counts as a row of equal numbers.

    The degrees leave out that the maximum was chosen among a row, which `chosen` adds once for the whole row.
    """
    if not symbols:
        shift = Residue(x.keyed_max(dim)[0].tensor, x.degree, m)
        less = x - shift
        return less, less.exp()
    largest = x.tensor.amax(dim, keepdim=True)
    if bool((largest == NEGATIVE_INFINITY).any()):
        raise NotANumberError("softmax of a row of nothing but -inf is NaN; mask with finfo.min, or leave one element")
    masked = x.tensor < -m.field.half
    kept = x.masked(~masked)
    rank = m.oracles.look_up(m.oracles.permutation("order"), kept.tensor).masked_fill_(masked, NEGATIVE_INFINITY)
    less = kept - kept.moved(lambda t: t.gather(dim, rank.argmax(dim, keepdim=True)))
    exp = less.exp()
    uniform = (largest < -m.field.half) & (x.tensor == LOWEST)
    hidden = masked & ~uniform
    exp.tensor.masked_fill_(hidden, 0.0).masked_fill_(uniform, 1.0)
    return Residue(torch.where(hidden, x.tensor, less.tensor), less.degree, m), exp


def owing_to_maximum(x: Residue, dim: int, degree: Degree) -> Degree:
    """Of a result within `degree` that depends on the maximum of x over a dim."""
    return degree.chosen_by(x.degree.shifted_by_one_of(x.shape[dim]))


@formula("_softmax.default", "_safe_softmax.default", symbols=True)
def softmax(
    m: Arithmetic, x: Residue, dim: int, _half_to_float: Any = None, *, symbols: bool, dtype: Any = None
) -> Residue:
    """E(x - max) / sum(E(x - max))."""
    if x.ndim == 0:
        return Residue(torch.ones_like(x.tensor), x.degree, m)

    def rows(x: Residue) -> tuple[Residue]:
        _, exp = shifted_exp(m, x, symbols=symbols)
        return (exp * exp.sum(-1, keepdim=True).inverse(),)

    (result,) = by_rows(rows, dim, x)
    return Residue(result.tensor, owing_to_maximum(x, dim, result.degree), m)


@formula("_log_softmax.default", symbols=True)
def log_softmax(m: Arithmetic, x: Residue, dim: int, _half_to_float: Any = None, *, symbols: bool) -> Residue:
    """(x - max) - log(sum(E(x - max))), which knows the softmax as its exponential (E alone is no homomorphism)."""
    if x.ndim == 0:
        return Residue(torch.zeros_like(x.tensor), x.degree, m)

    def rows(x: Residue) -> tuple[Residue, Residue]:
        less, exp = shifted_exp(m, x, symbols=symbols)
        total = exp.sum(-1, keepdim=True)
        softmax = exp * total.inverse()
        if not symbols:
            return less - total.log(), softmax
        masked = less.tensor < -m.field.half
        result = less.masked(~masked) - total.log()
        return Residue(torch.where(masked, less.tensor, result.tensor), result.degree, m), softmax

    result, softmax = by_rows(rows, dim, x, results=2)
    known = Residue(softmax.tensor, owing_to_maximum(x, dim, softmax.degree), m)
    return Residue(result.tensor, owing_to_maximum(x, dim, result.degree), m, exponential=known)


@formula("_softmax_backward_data.default")
def softmax_backward(m: Arithmetic, grad: Residue, y: Residue, dim: int, _dtype: Any) -> Residue:
    """Y * (grad - sum(grad * y))."""
    degree = y.degree.softmax_backward(grad.degree, y.shape[dim] if y.ndim else 1)

    def rows(grad: Residue, y: Residue) -> tuple[Residue]:
        return (y * (grad - grad.sum_of_products(y, -1, keepdim=True)),)

    (result,) = by_rows(rows, dim, grad, y)
    return Residue(result.tensor, degree, m)


@formula("_log_softmax_backward_data.default", symbols=True)
def log_softmax_backward(_m: Arithmetic, grad: Residue, y: Residue, dim: int, _dtype: Any, *, symbols: bool) -> Residue:
    """Grad - exp(y) * sum(grad), y = log_softmax(x)."""
    del symbols  # a masked element's exponential is zero, and known with the others'

    def rows(grad: Residue, softmax: Residue) -> tuple[Residue]:
        return (grad - softmax * grad.sum(-1, keepdim=True),)

    (result,) = by_rows(rows, dim, grad, y.exp())
    return result


selects("_softmax.default", "_log_softmax.default")
