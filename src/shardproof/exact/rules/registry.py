"""The table of rules: which ATen op is carried out how. Everything that is not here is refused.

A rule is one of three kinds.

*move*: the op only moves, copies or selects elements by integers; PyTorch carries it out on the residues as it is.
*sum*: the op adds elements up; PyTorch carries it out in float64 and the result is reduced.
*formula*: a function on `Residue` values.

In-place, `out=` and `_foreach_` forms follow from the functional op's rule. An op has one rule: a second registration
is an error.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import wraps
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

import torch
from torch import Tensor

from shardproof.exact.algebra.blockwise import by_elements

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch._ops import OpOverload

    from shardproof.exact.algebra.residue import Arithmetic, Residue

Kind = Literal["move", "sum", "formula"]
Function = TypeVar("Function", bound="Callable[..., Any]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """How one op is carried out.

    Attributes:
        kind: see the module's docstring.
        function: of a formula, `(arithmetic, *args, **kwargs) -> result`, with `Residue` in place of floating tensors;
            of a sum, the count of summands from the op's arguments and its result; of a move, None.
        of_residues: of a formula, a shorter one for operands that are residues alone, no integers, and not large, if
            there is one.
        elementwise: of a formula: it goes block by block, and takes a keyword `into`, where its result is to go.
        pointwise: of a formula: each element of the result depends on the operands' elements at its own position alone.
        symbols: whether operands may hold the symbols of masks; a formula then treats them itself.
    """

    kind: Kind
    function: Callable[..., Any] | None = None
    of_residues: Callable[..., Any] | None = None
    symbols: bool = False
    elementwise: bool = False
    pointwise: bool = False


RULES: dict[OpOverload, Rule] = {}

# Ops that choose elements by their order.
SELECTIONS: set[OpOverload] = set()
# Elementwise ops that are made of exponentials or logarithms.
OF_EXP: set[OpOverload] = set()
# Elementwise ops that are linear in a gradient, their first operand, and made of exponentials or logarithms of others.
OF_EXP_BACKWARD: set[OpOverload] = set()
# Elementwise ops that are linear in a tensor where the other operand is a number.
LINEAR: set[OpOverload] = set()


def find_op(name: str) -> OpOverload:
    """The ATen overload called `name`, as PyTorch prints it: 'mul.Tensor', 'relu.default'; other namespaces 'ns::op.x'.

    Raises:
        ValueError: this version of torch has no such op.
    """
    namespace, _, rest = name.rpartition("::")
    packet, _, overload = rest.partition(".")
    try:
        found: OpOverload = getattr(getattr(getattr(torch.ops, namespace or "aten"), packet), overload or "default")
    except AttributeError as error:
        msg = f"torch {torch.__version__} has no op {name!r}; give it as PyTorch prints it, like 'mul.Tensor'"
        raise ValueError(msg) from error
    return found


# Selections each of whose results comes of one row as a whole: the row's maximum, and what it is subtracted for.
OF_ROWS: Final = frozenset(map(find_op, ("_softmax.default", "_log_softmax.default", "amax.default")))

# Products and quotients of two tensors.
PRODUCTS: Final = frozenset(map(find_op, ("mul.Tensor", "div.Tensor")))


def register(op: OpOverload, rule: Rule) -> None:
    """Enter a rule into the table.

    Raises:
        ValueError: the op has a rule already.
    """
    if op in RULES:
        name = str(op).removeprefix("aten.")
        msg = f"{name!r} has a rule already, a {RULES[op].kind}; an op needs exactly one: take one of the two out"
        raise ValueError(msg)
    RULES[op] = rule


def formula(
    *names: str, symbols: bool = False, elementwise: bool = False, pointwise: bool = False
) -> Callable[[Function], Function]:
    """Decorator: the function below carries out these ops.

    Args:
        *names: the ops, as PyTorch prints them.
        symbols: the function takes a keyword `symbols`, and treats operands that may hold them.
        elementwise: each element of the result depends on the operands' elements at its own position alone,
            not even on how many elements there are. Large tensors then go block by block.
        pointwise: the same, without the blocks; of most such ops PyTorch says it itself.

    >>> @formula("square.default")
    ... def square(m, x):
    ...     return x * x
    """

    def register_all(function: Function) -> Function:
        for name in names:
            op = find_op(name)
            carried = _taking_integers(function) if torch.Tag.pointwise in op.tags else function
            carried = _in_blocks(carried) if elementwise else carried
            of_elements = elementwise or pointwise or torch.Tag.pointwise in op.tags
            rule = Rule(
                kind="formula",
                function=carried,
                of_residues=function,
                symbols=symbols,
                elementwise=elementwise,
                pointwise=of_elements,
            )
            register(op, rule)
        return function

    return register_all


def _taking_integers(function: Callable[..., Any]) -> Callable[..., Any]:
    """Elementwise ops take integer and boolean tensors beside residues; a formula then sees their residues."""

    @wraps(function)
    def carried(m: Arithmetic, *args: Any, **kwargs: Any) -> Any:
        if any(isinstance(x, Tensor) for x in args):
            args = tuple(residues_of_integers(m, x) if isinstance(x, Tensor) else x for x in args)
        return function(m, *args, **kwargs)

    return carried


def _in_blocks(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def carried(m: Arithmetic, *args: Any, into: Tensor | None = None, **kwargs: Any) -> Any:
        return by_elements(m, function, args, kwargs, into=into)

    return carried


def residues_of_integers(m: Arithmetic, x: Tensor) -> Residue:
    """Integers or booleans as known constants."""
    remainders = x if x.dtype == torch.bool else x.remainder(m.field.prime)
    residues = m.field.reduce_(remainders.to(torch.float64))
    return replace(m.residue(residues), value=x.to(torch.float64))


def moves(*names: str) -> None:
    """These ops only move elements."""
    for name in names:
        register(find_op(name), Rule(kind="move", symbols=True))


def sums(*names: str, count: Callable[..., int]) -> None:
    """These ops add elements up; `count(result, *args, **kwargs)` bounds how many meet in one element of the result."""
    for name in names:
        register(find_op(name), Rule(kind="sum", function=count))


def selects(*names: str) -> None:
    """These ops choose by order: their operands are recorded for comparison where a caller asks for it."""
    SELECTIONS.update(find_op(name) for name in names)


def are_of_exp(*names: str) -> None:
    """These elementwise ops are made of exponentials or logarithms."""
    OF_EXP.update(find_op(name) for name in names)


def are_backwards_of_exp(*names: str) -> None:
    """These elementwise ops are linear in their first operand, and made of exponentials or logarithms of the others."""
    OF_EXP_BACKWARD.update(find_op(name) for name in names)


def are_linear(*names: str) -> None:
    """These elementwise ops are linear in a tensor where the other operand is a number."""
    LINEAR.update(find_op(name) for name in names)


def compared_for_one(op: OpOverload, given: list[Tensor], found: Tensor) -> int:
    """An upper bound on how many elements of the operands were compared for one element of a selection's result."""
    operand = max(given, key=Tensor.numel)
    if "pool" in op.name():  # a window over several dims
        return max(2, operand.numel())
    if found.dtype == torch.bool and found.shape == operand.shape:
        return 2  # an elementwise comparison
    along = [size for dim, size in enumerate(operand.shape) if _can_be_along(dim, operand.shape, found.shape)]
    return int(max(2, *along)) if along else max(2, operand.numel())


def _can_be_along(dim: int, operand: torch.Size, found: torch.Size) -> bool:
    """Whether a result of this shape can come of choosing along one dim: kept, cut short or gone."""
    before, after = operand[:dim], operand[dim + 1 :]
    return found in (before + after, before + found[dim : dim + 1] + after)


# Ops that run natively on real constants too, besides elementwise ones: where made inside the program, a constant is
# an ordinary number until it meets a residue.
REAL_TOO: set[OpOverload] = set()


def runs_on_reals(*names: str) -> None:
    """These ops run as they are on constants that have met no residue."""
    REAL_TOO.update(find_op(name) for name in names)
