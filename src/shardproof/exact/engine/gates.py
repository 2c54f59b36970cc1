"""Gates: truth values of comparing a residue with a constant, where a program uses them as numbers.

As a truth value, [x > 0] goes by the random order: for a Python branch, an index, a count. Where it chooses between
numbers, is multiplied or cast, it is the gate g(x), so that `where(x > 0, x, 0)`, `x * (x > 0)` and relu(x) are one
function (rules/pieces.py). Masks that choose -inf or finfo.min choose as truth values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from shardproof.exact.algebra.lift import is_symbol
from shardproof.exact.engine.tags import Tag
from shardproof.exact.engine.tensor_trees import floats_in, map_tensors, tensors_in
from shardproof.exact.rules.pieces import choose, number_of, over_pieces, pieces_of, single
from shardproof.exact.rules.registry import RULES, SELECTIONS, Rule

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch._ops import OpOverload

    from shardproof.exact.algebra.residue import Arithmetic, Residue
    from shardproof.exact.engine.applying import Applying
    from shardproof.exact.engine.constants import Constants
    from shardproof.exact.engine.piece_tensors import PieceStore
    from shardproof.exact.engine.reals import Reals
    from shardproof.exact.engine.run import Run

_aten: Final = torch.ops.aten
_WHERE: Final = frozenset(getattr(_aten.where, name) for name in ("self", "ScalarSelf", "ScalarOther", "Scalar"))
_FILLS: Final = frozenset({_aten.masked_fill.Scalar, _aten.masked_fill.Tensor})
_PUTS: Final = frozenset({_aten.index_put.default, _aten._unsafe_index_put.default})
_CASTS: Final = frozenset({_aten._to_copy.default, _aten.copy_.default})
_CHOOSE: Final = Rule(kind="formula", function=choose)


def _both(m: Arithmetic, x: Residue, y: Residue) -> Residue:
    return _with_values(m, x, y, lambda a, b: a and b, x * y)


def _either(m: Arithmetic, x: Residue, y: Residue) -> Residue:
    return _with_values(m, x, y, lambda a, b: a or b, x + y - x * y)


def _one_alone(m: Arithmetic, x: Residue, y: Residue) -> Residue:
    return _with_values(m, x, y, lambda a, b: a != b, x + y - x * y * 2)


def _negation(m: Arithmetic, x: Residue) -> Residue:
    return single(m, float(not bool(x.value))) if _is_known(x) else 1 - x


def _is_known(x: Residue) -> bool:
    return x.ndim == 0 and x.value is not None


def _with_values(
    m: Arithmetic, x: Residue, y: Residue, of_known: Callable[[bool, bool], bool], otherwise: Residue
) -> Residue:
    """Of two known truth values theirs, which stays known; else the formula."""
    if _is_known(x) and _is_known(y):
        return single(m, float(of_known(bool(x.value), bool(y.value))))
    return otherwise


_LOGIC: Final[dict[OpOverload, Callable[..., Residue]]] = {
    **dict.fromkeys((_aten.logical_and.default, _aten.bitwise_and.Tensor, _aten.__and__.Tensor), _both),
    **dict.fromkeys((_aten.logical_or.default, _aten.bitwise_or.Tensor, _aten.__or__.Tensor), _either),
    **dict.fromkeys((_aten.logical_xor.default, _aten.bitwise_xor.Tensor, _aten.__xor__.Tensor), _one_alone),
    **dict.fromkeys((_aten.logical_not.default, _aten.bitwise_not.default), _negation),
    _aten.mul.Tensor: _both,
    _aten.ne.Tensor: _one_alone,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Gates:
    """Carries out ops on truth values that have pieces."""

    run: Run
    constants: Constants
    pieces: PieceStore
    applying: Applying
    reals: Reals

    def carry_out(self, op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The op's result where it chooses by a gate, or computes other truth values; else NotImplemented."""
        tensors = tensors_in((args, kwargs))
        if op in _WHERE:
            return self._choose(*args)
        if op in _FILLS:
            return self._choose(args[1], args[2], args[0])
        if op in _PUTS:
            return self._put(*args, **kwargs)
        if any(x.dtype != torch.bool for x in tensors):
            return NotImplemented
        if op in _LOGIC and all(isinstance(x, Tensor | bool) for x in args):
            result = self.reals.make(op, args, kwargs)
            numbers = [self.number_of(x) if isinstance(x, Tensor) else single(self._m, float(x)) for x in args]
            self.pieces.keep(result, pieces_of(over_pieces(self._m, _LOGIC[op], *numbers)))
            return result
        rule = RULES.get(op)
        if rule is not None and rule.kind == "move" and kwargs.get("dtype") in (None, torch.bool):
            result = self.reals.make(op, args, kwargs)
            if isinstance(result, Tensor) and self.run.tag(result).pieces is None:
                self.pieces.move(op, result, [x for x in tensors if self.run.tag(x).pieces is not None], args, kwargs)
            return result
        return NotImplemented

    def as_numbers(
        self, op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """An op's arguments with gates in place of truth values, where it takes them for numbers."""
        rule = RULES.get(op)
        to_floating = getattr(kwargs.get("dtype"), "is_floating_point", False)
        if op in _CASTS:
            takes_numbers = to_floating or (op is _aten.copy_.default and args[0].is_floating_point())
        else:
            computes = rule is not None and rule.kind == "formula" and rule.pointwise and op not in SELECTIONS
            takes_numbers = computes and (bool(floats_in((args, kwargs))) or any(isinstance(x, float) for x in args))
        if not takes_numbers:
            return args, kwargs
        given: tuple[tuple[Any, ...], dict[str, Any]] = map_tensors(self._as_number, (args, kwargs))
        return given

    def number_of(self, x: Tensor) -> Residue:
        """The number that a truth value stands for, a gate or a constant."""
        pieces = self.pieces.of(x)
        if pieces is None:
            number = x.to(torch.float64)
            return self._m.residue(number, self.run.tag(x).degree)
        return number_of(self._m, pieces, x.shape)

    # ------------------------------------------------------------------------------------------------------------------

    @property
    def _m(self) -> Arithmetic:
        return self.run.arithmetic

    def _as_number(self, x: Tensor) -> Tensor:
        if x.dtype != torch.bool or self.run.tag(x).pieces is None:
            return x
        found = self.number_of(x)
        self.run.set(found.tensor, Tag(degree=found.degree))
        self.pieces.keep(found.tensor, found.pieces)
        mask = self.applying.void.of(x)
        if mask is not None:
            self.applying.void.mark(found.tensor, mask)
        return found.tensor

    def _put(self, x: Tensor, indices: Any, value: Tensor, accumulate: bool = False) -> Any:
        """`x[mask] = number`."""
        if accumulate or len(indices) != 1 or indices[0].shape != x.shape or value.numel() != 1:
            return NotImplemented
        return self._choose(indices[0], value.reshape(()), x)

    def _choose(self, condition: Tensor, x: Any, y: Any) -> Any:
        """X where the condition holds, else y, unless they are symbols or integers or the condition has no pieces."""
        floating = any(v.is_floating_point() if isinstance(v, Tensor) else isinstance(v, float) for v in (x, y))
        if self.run.tag(condition).pieces is None or not floating or not all(self._is_number(v) for v in (x, y)):
            return NotImplemented
        where = _aten.where.self  # what is void is found by it
        return self.applying.apply(where, _CHOOSE, (self._as_number(condition), self._tensor(x), self._tensor(y)), {})

    def _is_number(self, value: float | Tensor) -> bool:
        if not isinstance(value, Tensor):
            return not is_symbol(float(value))
        return value.is_floating_point() and not self.constants.symbols_in(value)

    def _tensor(self, value: float | Tensor) -> Tensor:
        if isinstance(value, Tensor):
            return value
        found = torch.tensor(float(value), dtype=torch.float64)
        self.run.set(found, Tag(real=True))
        return found
