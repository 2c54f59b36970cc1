"""Piecewise functions of residues, whichever way they are written.

A comparison of a residue with a constant, [x > t], is a *gate*: g(x - t), a random residue with g(-x) = 1 - g(x). A
function that is v0 below t and v1 above it is v0 + g(x - t) * (v1 - v0), so a wrong value on either side is seen, and
`where`, products with a mask, clamps and PyTorch's own functions meet in one formula. That holds for several thresholds
too: v0 + the sum of g(x - t) * (v1 - v0) over the thresholds.

A result remembers its `Pieces`, so that a clamp of a clamp, a comparison of a magnitude and the exponential of
-|x| keep that form. What is computed from the tensor as a whole (a product of matrices, a norm) knows nothing of them,
so powers and products must not, or a norm written out would not be the norm: (g x)**2 stays g**2 x**2. Two kinds of
pieces go on nevertheless: those with a limit that is a number other than 0, and exponentials.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._pytree import tree_flatten, tree_unflatten

from shardproof.exact.algebra.degree import CONSTANT
from shardproof.exact.algebra.lift import is_symbol
from shardproof.exact.algebra.residue import Pieces, Residue, Threshold
from shardproof.exact.rules.registry import (
    LINEAR,
    OF_EXP,
    OF_EXP_BACKWARD,
    PRODUCTS,
    SELECTIONS,
    residues_of_integers,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from fractions import Fraction

    from torch import Tensor
    from torch._ops import OpOverload

    from shardproof.exact.algebra.degree import Degree
    from shardproof.exact.algebra.residue import Arithmetic, Operand


def piecewise(m: Arithmetic, x: Residue, thresholds: Sequence[Threshold], values: Sequence[Operand]) -> Residue:
    """The function of x that has these values before, between and after its thresholds; of a constant its value.

    Args:
        m: the arithmetic.
        x: what is compared. That it is piecewise itself is not looked at, see `over_pieces`.
        thresholds: ascending.
        values: one more than thresholds.
    """
    if x.value is not None:
        return _chosen_by_value(m, x.value, thresholds, [v if isinstance(v, Residue) else single(m, v) for v in values])
    base = m.residue(x.tensor.clone(), x.degree)  # the program may write into x
    found = [base if v is x else v if isinstance(v, Residue) else single(m, v) for v in values]
    x = base
    shape = torch.broadcast_shapes(x.shape, *(v.shape for v in found))
    combined = _combined(m, Pieces(base=x, thresholds=tuple(thresholds), values=tuple(_bare(v) for v in found)), shape)
    return combined if shape == x.shape else _bare(combined)


def limit_of(x: Residue, limit: Operand) -> Operand:
    """What x is compared with: as a number where it is a tensor of one constant."""
    if not isinstance(limit, Residue) or limit.value is None or not limit.numel():
        return limit
    first = limit.value.reshape(-1)[0]
    if torch.broadcast_shapes(x.shape, limit.shape) != x.shape or not bool((limit.value == first).all()):
        return limit
    return float(first)


def single(m: Arithmetic, number: float | Fraction) -> Residue:
    """A constant as a tensor without dims."""
    residue = m.residue(torch.tensor(float(m.constant(number)), dtype=torch.float64))
    return replace(residue, value=torch.tensor(float(number), dtype=torch.float64))


def goes_by_piece(op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether an elementwise op is computed piece by piece where its operands are piecewise."""
    if op in SELECTIONS or kwargs.get("symbols"):
        return False
    operands = [x for x in (*args, *kwargs.values()) if isinstance(x, Residue)]
    lasting = any(x.pieces is not None and x.pieces.lasting for x in operands)
    if op in OF_EXP_BACKWARD:  # linear in a gradient, which need not be piecewise
        return any(x.pieces is not None for x in operands[1:])
    if any(x.pieces is None and x.value is None for x in operands):
        return op in PRODUCTS and lasting  # linear in the other tensor, a gradient, say
    return lasting or op in OF_EXP or (op in LINEAR and len(operands) == 1)


def over_pieces(
    m: Arithmetic,
    function: Callable[..., Any],
    *args: Any,
    of_exp: bool = False,
    product: bool = False,
    **kwargs: Any,
) -> Any:
    """An elementwise function's result, computed piece by piece where operands are piecewise functions of one tensor.

    Where they are of several, or the result is no residue or larger than that tensor, the operands are taken as they
    are: a gradient times a clipping factor has no pieces, wherever it is held.

    Args:
        m: the arithmetic.
        function: `(m, *args, **kwargs)`.
        args: with residues among them.
        of_exp: the function is made of exponentials or logarithms.
        product: it is a product or a quotient, and asks no oracle.
        kwargs: likewise.
    """
    leaves, spec = tree_flatten((args, kwargs), is_leaf=lambda x: isinstance(x, Residue))
    operands = [x for x in leaves if isinstance(x, Residue)]
    if all(x.pieces is None for x in operands):
        return function(m, *args, **kwargs)

    def call(given: Sequence[Residue]) -> Any:
        values = iter(given)
        filled = [next(values) if isinstance(x, Residue) else x for x in leaves]
        args, kwargs = tree_unflatten(filled, spec)
        return function(m, *args, **kwargs)

    operands = _without_older_pieces(operands)
    found = _piece_by_piece(m, call, operands, of_exp=of_exp, product=product)
    return call([_bare(x) for x in operands]) if found is None else found


def is_greater(m: Arithmetic, x: Residue, limit: Operand, *, or_equal: bool) -> Residue:
    """[x > limit], or [x >= limit], as a number: a gate."""
    base, at = _measured(x, limit)

    def compare(m: Arithmetic, base: Residue) -> Residue:
        return piecewise(m, base, [Threshold(at, above=not or_equal)], (0, 1))

    found: Residue = over_pieces(m, compare, base)
    return found


def choose(m: Arithmetic, condition: Residue, x: Operand, y: Operand) -> Residue:
    """X where the condition, a gate, is 1, y where it is 0."""
    x, y = (v if isinstance(v, Residue) else single(m, v) for v in (x, y))
    return over_pieces(m, _choose, condition, x, y)  # type: ignore[no-any-return]


def _choose(_m: Arithmetic, condition: Residue, x: Residue, y: Residue) -> Residue:
    if condition.ndim == 0 and condition.degree is CONSTANT and condition.value is not None:
        return x if bool(condition.value) else y
    return y + condition * (x - y)


def comparison(m: Arithmetic, name: str, x: Operand | Tensor, y: Operand | Tensor) -> Pieces | None:
    """[x > y] and the like as a number, where one of the two is a constant; else None: two residues have an order.

    Args:
        m: the arithmetic.
        name: 'gt', 'ge', 'lt' or 'le'.
        x: what is compared; integers are constants.
        y: with what.
    """
    x, y = (residues_of_integers(m, z) if isinstance(z, torch.Tensor) else z for z in (x, y))
    if _is_constant(x) == _is_constant(y):
        return None
    if _is_constant(x):
        x, y, name = y, x, {"gt": "lt", "ge": "le", "lt": "gt", "le": "ge"}[name]
    assert isinstance(x, Residue)
    if not isinstance(y, Residue) and (is_symbol(float(y)) or is_symbol(-float(y))):
        always = (float(y) < 0) == (name in ("gt", "ge"))  # a limit that is none
        return pieces_of(single(m, float(always)))
    if name in ("gt", "ge"):
        found = is_greater(m, x, y, or_equal=name == "ge")
    else:
        found = over_pieces(m, _negated, is_greater(m, x, y, or_equal=name == "lt"))
    return pieces_of(found)


def pieces_of(x: Residue) -> Pieces:
    """Its pieces, or itself as the one piece."""
    return Pieces(base=_bare(x), thresholds=(), values=(_bare(x),)) if x.pieces is None else x.pieces


def number_of(m: Arithmetic, pieces: Pieces, shape: torch.Size) -> Residue:
    """The number in these pieces."""
    return _combined(m, pieces, shape)


def _negated(m: Arithmetic, x: Residue) -> Residue:
    if x.ndim == 0 and x.value is not None:
        return single(m, 1 - float(x.value))
    return 1 - x


def _is_constant(x: Operand) -> bool:
    return not isinstance(x, Residue) or x.value is not None


# ----------------------------------------------------------------------------------------------------------------------


def _bare(x: Residue) -> Residue:
    return x if x.pieces is None else replace(x, pieces=None)


def _measured(x: Residue, limit: Operand) -> tuple[Residue, float]:
    """What is compared with which number: x with the limit where that is one constant, else x - limit with 0."""
    limit = limit_of(x, limit)
    return (_bare(x) - _bare(limit), 0.0) if isinstance(limit, Residue) else (x, float(limit))


def _chosen_by_value(m: Arithmetic, x: Tensor, thresholds: Sequence[Threshold], values: Sequence[Residue]) -> Residue:
    tensor, degree, value = values[0].tensor, values[0].degree, values[0].value
    for threshold, after in zip(thresholds, values[1:], strict=True):
        beyond = x > threshold.at if threshold.above else x >= threshold.at
        tensor, degree = torch.where(beyond, after.tensor, tensor), degree | after.degree
        value = None if value is None or after.value is None else torch.where(beyond, after.value, value)
    shape = torch.broadcast_shapes(x.shape, tensor.shape)
    found = m.residue(tensor.expand(shape).clone(), degree)
    return replace(found, value=None if value is None else value.expand(shape).clone())


def _combined(m: Arithmetic, pieces: Pieces, shape: torch.Size) -> Residue:
    """The tensor of these pieces, which it remembers: v0 + the sum of g(x - t) * (v1 - v0) over the thresholds."""
    pieces = _simplified(pieces)
    found = pieces.values[0]
    for threshold, before, after in zip(pieces.thresholds, pieces.values, pieces.values[1:], strict=False):
        argument = pieces.base if threshold.at == 0 else pieces.base - threshold.at
        change = after if _is_zero(before) else after - before
        found = (
            argument.gate(above=threshold.above) * change
            if _is_zero(found)
            else found + (argument.gate(above=threshold.above) * change)
        )
    if found.shape != shape:
        found = replace(m.residue(found.tensor.expand(shape).clone(), found.degree), roots=found.roots)
    if not pieces.thresholds:
        return found
    return replace(m.residue(found.tensor, _degree_of(pieces, found.degree)), pieces=pieces)


def _degree_of(pieces: Pieces, degree: Degree) -> Degree:
    """Of the sum of the values, each times a difference of two gates: it has each value's denominator once."""
    values = [value.degree for value in pieces.values]
    if degree.unknown or any(value.unknown for value in values):
        return degree
    under = sum(value.under for value in values)
    over = 1 + max(value.over + under - value.under for value in values)
    others = sum(value.degree.gates for value in pieces.values if value is not pieces.base)
    gates = others + pieces.base.degree.gates + len(pieces.thresholds)
    return replace(degree, over=over, under=under, gates=min(gates, degree.gates))


def _is_zero(x: Residue) -> bool:
    return x.ndim == 0 and x.value is not None and bool(x.value == 0)


def _is_one(x: Residue, y: Residue) -> bool:
    """Whether two values are the same tensor or the same constant, so that there is no threshold between them."""
    if x.is_same(y):
        return True
    return x.ndim == y.ndim == 0 and x.value is not None and y.value is not None and bool(x.tensor == y.tensor)


def _simplified(pieces: Pieces) -> Pieces:
    """Without thresholds at which nothing changes."""
    thresholds, values = [], [pieces.values[0]]
    for threshold, value in zip(pieces.thresholds, pieces.values[1:], strict=True):
        if not _is_one(values[-1], value):
            thresholds.append(threshold)
            values.append(value)
    return replace(pieces, thresholds=tuple(thresholds), values=tuple(values))


# Functions of one tensor ----------------------------------------------------------------------------------------------


def _are_equal(x: Residue, y: Residue, *, times: int = 1) -> bool:
    """Whether x is y, or -y, element by element."""
    if x.shape != y.shape:
        return False
    return (times == 1 and x.is_same(y)) or torch.equal(x.tensor, y.tensor * times)


def _as_function_of(pieces: Pieces, base: Residue) -> Pieces | None:
    """The same as a function of another base, where that is its own or the negative of it."""
    if not pieces.thresholds:
        return replace(pieces, base=base)
    if _are_equal(pieces.base, base):
        return replace(pieces, base=base)
    if _are_equal(pieces.base, base, times=-1):  # [-x > t] is 1 - [x >= -t]
        thresholds = tuple(
            Threshold(-threshold.at, above=not threshold.above) for threshold in reversed(pieces.thresholds)
        )
        return replace(pieces, base=base, thresholds=thresholds, values=pieces.values[::-1])
    return None


def _without_older_pieces(operands: Sequence[Residue]) -> list[Residue]:
    """Operands of whose own values other operands are functions, without their pieces: y in y * [y > 1]."""
    bases = [x.pieces.base for x in operands if x.pieces is not None and x.pieces.thresholds]
    return [x if x.pieces is None or not any(_are_equal(x, base) for base in bases) else _bare(x) for x in operands]


def _within(pieces: Pieces, low: Threshold | None, high: Threshold | None) -> tuple[list[Threshold], list[Residue]]:
    """The thresholds between two others, and the values before, between and after them."""
    first = sum(low is not None and threshold <= low for threshold in pieces.thresholds)
    last = sum(high is None or threshold < high for threshold in pieces.thresholds)
    return list(pieces.thresholds[first:last]), list(pieces.values[first : max(first, last) + 1])


def _piece_by_piece(
    m: Arithmetic,
    call: Callable[[Sequence[Residue]], Any],
    operands: Sequence[Residue],
    *,
    of_exp: bool,
    product: bool,
) -> Any:
    """The function computed on each piece; None where that is not possible."""
    base = next((x.pieces.base for x in operands if x.pieces is not None and x.pieces.thresholds), None)
    if base is None or torch.broadcast_shapes(base.shape, *(x.shape for x in operands)) != base.shape:
        return None
    known = [None if x.pieces is None else _as_function_of(x.pieces, base) for x in operands]
    if any(x.pieces is not None and pieces is None for x, pieces in zip(operands, known, strict=True)):
        return None
    thresholds = sorted({threshold for pieces in known if pieces is not None for threshold in pieces.thresholds})
    all_thresholds: list[Threshold] = []
    values: list[Residue] = []
    divisions = m.zero_divisions
    for low, high in zip((None, *thresholds), (*thresholds, None), strict=True):
        given = [
            x if pieces is None else _within(pieces, low, high)[1][0] for x, pieces in zip(operands, known, strict=True)
        ]
        result = call(given)
        part = _part_of(result, base)
        if part is None or _divides_by_zero(part):
            m.zero_divisions = divisions
            return None
        more_thresholds, more_values = _within(part, low, high)
        all_thresholds += [*more_thresholds] if low is None else [low, *more_thresholds]
        values += more_values
    of_exp = of_exp or any(pieces is not None and pieces.of_exp for pieces in known)
    pieces = Pieces(base=base, thresholds=tuple(all_thresholds), values=tuple(values), of_exp=of_exp)
    if product and any(x.pieces is None and x.value is None for x in operands):
        # Linear in the other tensor: whether it equals any other is not asked, and all oracles are the operands'.
        found = _combined(m, pieces, base.shape)
        gates = sum(x.degree.gates for x in operands)
        return replace(found, degree=replace(found.degree, gates=min(found.degree.gates, gates)))
    pieces = replace(pieces, values=tuple(base if _are_equal(value, base) else value for value in values))
    found = _combined(m, pieces, base.shape)
    # Which tensors are equal was asked of residues: it is noted as a comparison of the base's elements.
    return replace(found, degree=found.degree.chosen_by(replace(base.degree.compared(2), chosen=False)))


def _part_of(result: Any, base: Residue) -> Pieces | None:
    """What a function gave on one piece, as a function of the base; None where it is none."""
    if not isinstance(result, Residue):
        return None
    if result.pieces is None:
        return Pieces(base=base, thresholds=(), values=(result,))
    return _as_function_of(result.pieces, base)


def _divides_by_zero(part: Pieces) -> bool:
    """Whether a piece is void throughout: the logarithm of relu(x) below 0."""
    return any(bool(value.tensor.isnan().all()) for value in part.values if value.numel())
