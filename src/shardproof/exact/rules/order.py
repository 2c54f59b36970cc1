"""Choosing by order. Constants go by the real numbers that they stand for; residues by a random order of the field.

In the keyed order, that of a random permutation, which element is chosen is independent of the values, so that a bound
needs no union over the positions it can have (docs/exact.md). Either way PyTorch's own op runs on ranks, the positions
in the order; ranks are mapped back to the elements. The symbols of masks come before all others, as in floating point.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf, isnan
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map

from shardproof.exact.algebra.degree import CONSTANT
from shardproof.exact.algebra.lift import LOWEST, NEGATIVE_INFINITY, is_symbol
from shardproof.exact.algebra.residue import Residue
from shardproof.exact.rules.log_terms import as_shift, with_depth
from shardproof.exact.rules.piecewise import at_least, at_most, value_of
from shardproof.exact.rules.registry import compared_for_one, find_op, formula, runs_on_reals, selects

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch._ops import OpOverload

    from shardproof.exact.algebra.residue import Arithmetic, Operand


def to_ranks(m: Arithmetic, x: Tensor) -> Tensor:
    """The rank of each residue, its position in the keyed order; the symbols stay as they are, below all ranks."""
    symbolic = x.abs() > m.field.half
    if not bool(symbolic.any()):
        return m.oracles.look_up(m.oracles.permutation("order"), x)
    return torch.where(symbolic, x, m.oracles.look_up(m.oracles.permutation("order"), x.masked_fill(symbolic, 0.0)))


def from_ranks(m: Arithmetic, ranks: Tensor) -> Tensor:
    """The residues of these ranks."""
    symbolic = ranks.abs() > m.field.half
    if not bool(symbolic.any()):
        return m.oracles.look_up(m.oracles.permutation_inverse("order"), ranks)
    inverse = m.oracles.permutation_inverse("order")
    return torch.where(symbolic, ranks, m.oracles.look_up(inverse, ranks.masked_fill(symbolic, 0.0)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """The order by which the elements of some operands are chosen.

    Attributes:
        ranks: each operand's elements as their positions in the order, in float64.
        back: the residues at positions.
        certain: it is the order of real numbers: a choice by it owes nothing to chance.
    """

    ranks: list[Tensor]
    back: Callable[[Tensor], Tensor]
    certain: bool


def order_of(m: Arithmetic, operands: Sequence[Residue]) -> Order:
    """The order of the reals where all operands are known constants, else the keyed one."""
    values = [x.value for x in operands if x.value is not None]
    if len(values) < len(operands):
        return Order(ranks=[to_ranks(m, x.tensor) for x in operands], back=lambda t: from_ranks(m, t), certain=False)
    numbers, positions = torch.cat([x.reshape(-1) for x in values]).unique(return_inverse=True)
    residues = torch.empty_like(numbers).scatter_(0, positions, torch.cat([x.tensor.reshape(-1) for x in operands]))
    parts = positions.to(torch.float64).split([x.numel() for x in operands])
    ranks = [part.view(x.shape) for part, x in zip(parts, operands, strict=True)]
    return Order(ranks=ranks, back=lambda t: residues.index_select(0, t.long().reshape(-1)).view(t.shape), certain=True)


# Selections -----------------------------------------------------------------------------------------------------------


def _by_ranks(op: OpOverload) -> Callable[..., Any]:
    def choose(m: Arithmetic, *args: Any, symbols: bool = False, **kwargs: Any) -> Any:
        del symbols  # ranks know them
        given = [x for x in tree_flatten((args, kwargs), is_leaf=_is_residue)[0] if _is_residue(x)]
        order = order_of(m, given)
        ranks = iter(order.ranks)
        ranked = tree_map(lambda x: next(ranks) if _is_residue(x) else x, (args, kwargs), is_leaf=_is_residue)
        found = op(*ranked[0], **ranked[1])
        chosen = tree_map(lambda y: _chosen(op, y, order, given), found)
        if op not in _MAXIMA or given[0].depth is None:
            return chosen
        deep = op(given[0].depth, *args[1:], **kwargs)  # a maximum is as deep as the least deep
        return with_depth(chosen, deep) if isinstance(deep, Tensor) else (with_depth(chosen[0], deep[0]), chosen[1])

    return choose


def _is_residue(x: Any) -> bool:
    return isinstance(x, Residue)


def _chosen(op: OpOverload, found: Any, order: Order, given: list[Residue]) -> Any:
    if not (isinstance(found, Tensor) and found.is_floating_point()):
        return found
    m = given[0].of
    degree = given[0].degree
    for other in given[1:]:
        degree |= other.degree
    if order.certain:
        return m.residue(order.back(found), degree)
    count = compared_for_one(op, [x.tensor for x in given], found)
    chosen = m.residue(order.back(found), degree.selected_from(count))
    return as_shift(replace(chosen, degree=degree.maximum_of(count))) if op in _MAXIMA else chosen


_BY_RANKS = (
    *("max.default", "max.dim", "min.default", "min.dim", "amax.default", "amin.default", "aminmax.default"),
    *("argmax.default", "argmin.default", "sort.default", "sort.stable", "topk.default", "kthvalue.default"),
    *("median.default", "median.dim", "nanmedian.default", "nanmedian.dim", "mode.default"),
    *("cummax.default", "cummin.default", "_unique2.default", "unique_dim.default", "unique_consecutive.default"),
    *("searchsorted.Tensor", "bucketize.Tensor"),
    *("max_pool2d_with_indices.default", "max_pool3d_with_indices.default"),
    *("adaptive_max_pool2d.default", "adaptive_max_pool3d.default"),
)
# One element of those compared decides.
_MAXIMA = frozenset(map(find_op, ("max.default", "max.dim", "amax.default")))
for _name in _BY_RANKS:
    formula(_name, symbols=True)(_by_ranks(find_op(_name)))
selects(*_BY_RANKS)
runs_on_reals(*_BY_RANKS)


# Comparisons ----------------------------------------------------------------------------------------------------------


def _compared(m: Arithmetic, x: Operand) -> Tensor | float:
    """The rank of an operand; infinities and the lowest number stand beyond all ranks."""
    if isinstance(x, Residue):
        return to_ranks(m, x.tensor)
    if x == inf or is_symbol(float(x)):
        return float(x) if x in (inf, NEGATIVE_INFINITY) else LOWEST
    return to_ranks(m, torch.tensor(float(m.constant(x)), dtype=torch.float64))


def _register_comparison(name: str, compare: Callable[..., Tensor], *, or_equal: bool) -> None:
    """A comparison; of known constants that differ by the rounding of float64 alone, their residues say."""

    def rule(m: Arithmetic, x: Operand, y: Operand, *, symbols: bool) -> Tensor:
        values = [value_of(z) for z in (x, y)]
        if all(value is not None for value in values):
            same = torch.eq(*(torch.as_tensor(_digits(m, z), dtype=torch.float64) for z in (x, y)))
            return torch.where(same, torch.tensor(or_equal), compare(*values))
        return compare(_compared(m, x), _compared(m, y))

    formula(f"{name}.Tensor", f"{name}.Scalar", symbols=True)(rule)
    selects(f"{name}.Tensor", f"{name}.Scalar")


selects("eq.Tensor", "eq.Scalar", "ne.Tensor", "ne.Scalar")
# [x < y] and the like, by name.
COMPARISONS = {find_op(f"{name}.{kind}"): name for name in ("lt", "le", "gt", "ge") for kind in ("Tensor", "Scalar")}
_register_comparison("lt", torch.lt, or_equal=False)
_register_comparison("le", torch.le, or_equal=True)
_register_comparison("gt", torch.gt, or_equal=False)
_register_comparison("ge", torch.ge, or_equal=True)


def _digits(m: Arithmetic, x: Operand) -> Tensor | float:
    """What equality compares: the residue, or the symbol."""
    if isinstance(x, Residue):
        return x.tensor
    if x == inf or isnan(x):
        return float(x)
    if is_symbol(float(x)):
        return NEGATIVE_INFINITY if x == NEGATIVE_INFINITY else LOWEST
    return float(m.constant(x))


@formula("eq.Tensor", "eq.Scalar", symbols=True)
def equal(m: Arithmetic, x: Residue, y: Operand, *, symbols: bool) -> Tensor:
    """Equality of residues."""
    del symbols
    return torch.eq(x.tensor, _digits(m, y))


@formula("ne.Tensor", "ne.Scalar", symbols=True)
def not_equal(m: Arithmetic, x: Residue, y: Operand, *, symbols: bool) -> Tensor:
    """Inequality of residues."""
    del symbols
    return torch.ne(x.tensor, _digits(m, y))


def _register_truth_value(name: str) -> None:
    """An op that takes a float for a truth value: whether it is nonzero."""
    op = find_op(name)

    def rule(_m: Arithmetic, *args: Any, symbols: bool, **kwargs: Any) -> Any:
        del symbols
        return op(*tree_map(lambda x: x.tensor if _is_residue(x) else x, args, is_leaf=_is_residue), **kwargs)

    formula(name, symbols=True)(rule)
    selects(name)


for _name in (
    *("logical_not.default", "logical_and.default", "logical_or.default", "logical_xor.default"),
    *("all.default", "all.dim", "all.dims", "any.default", "any.dim", "any.dims"),
    *("count_nonzero.default", "count_nonzero.dim_IntList", "nonzero.default", "nonzero_static.default"),
    *("isnan.default", "isinf.default", "isposinf.default", "isneginf.default"),
):
    _register_truth_value(_name)


# The larger of two ----------------------------------------------------------------------------------------------------


def _extremum(
    by_constant: Callable[[Arithmetic, Residue, Residue], Residue], op: Callable[..., Tensor]
) -> Callable[..., Residue]:
    """Of two tensors: with a constant what clamp is, else the one that comes last (or first) in the keyed order."""

    def rule(m: Arithmetic, x: Residue, y: Residue, *, symbols: bool) -> Residue:
        constants = [z.degree == CONSTANT for z in (x, y)]
        if not symbols and sum(constants) == 1:
            limits, other = (x, y) if constants[0] else (y, x)
            return by_constant(m, other, limits)
        order = order_of(m, (x, y))
        found = m.residue(order.back(op(*order.ranks)), x.degree | y.degree)
        if order.certain:
            return replace(found, value=op(x.value, y.value))
        chosen = m.residue(found.tensor, found.degree.selected_from(2))
        return as_shift(chosen) if op is torch.maximum else chosen

    return rule


larger, smaller = _extremum(at_least, torch.maximum), _extremum(at_most, torch.minimum)
formula("maximum.default", "fmax.default", "clamp_min.Tensor", symbols=True)(larger)
formula("minimum.default", "fmin.default", "clamp_max.Tensor", symbols=True)(smaller)
selects("maximum.default", "fmax.default", "clamp_min.Tensor", "minimum.default", "fmin.default", "clamp_max.Tensor")


@formula("clamp.Tensor", symbols=True)
def clamp_between(
    m: Arithmetic, x: Residue, low: Residue | None = None, high: Residue | None = None, *, symbols: bool
) -> Residue:
    """min(max(x, low), high)."""
    x = x if low is None else larger(m, x, low, symbols=symbols)
    return x if high is None else smaller(m, x, high, symbols=symbols)


selects("clamp.Tensor")
