"""Choices between two tensors, and which of them each was: `maximum(a, b)`, `where(a > b, a, b)` and the like.

Of a choice between a tensor and a constant both sides are compared, by a gate; see docs/exact.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from shardproof.exact.algebra.degree import CONSTANT
from shardproof.exact.rules.order import COMPARISONS
from shardproof.op_arguments import name_arguments

if TYPE_CHECKING:
    from torch._ops import OpOverload

    from shardproof.exact.engine.constants import Constants
    from shardproof.exact.engine.run import Run

_aten: Final = torch.ops.aten
_EXTREMA: Final = {
    _aten.maximum.default: "maximum",
    _aten.minimum.default: "minimum",
    _aten.fmax.default: "fmax",
    _aten.fmin.default: "fmin",
    _aten.clamp_min.Tensor: "clamp_min",
    _aten.clamp_max.Tensor: "clamp_max",
}
_CLAMP: Final = _aten.clamp.Tensor
_WHERE: Final = _aten.where.self


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoWayChoices:
    """Notes choices between residues."""

    run: Run
    constants: Constants

    def note(self, op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        """Note what an op has chosen, or of which tensors its truth values are a comparison."""
        if op in COMPARISONS and self._are_residues(args):
            storages = (StorageWeakRef(args[0].untyped_storage()), StorageWeakRef(args[1].untyped_storage()))
            self.run.tags.set(result, replace(self.run.tag(result), compares=storages))
        elif op in _EXTREMA and self._are_residues(args):
            self._add(_EXTREMA[op], args[0], args[1], result)
        elif op is _CLAMP:
            given = name_arguments(op, args, kwargs)
            limits = [given[name] for name in ("min", "max") if given.get(name) is not None]
            if len(limits) == 1 and self._are_residues((given["self"], limits[0])):
                self._add("clamp", given["self"], limits[0], result)
        elif op is _WHERE:
            condition, first, second = args
            compared = self.run.tag(condition).compares
            if compared is not None and self._are_residues((first, second)) and _hold((first, second), compared):
                self._add("where", first, second, result)

    def _are_residues(self, args: tuple[Any, ...]) -> bool:
        """Whether the first two are tensors, and neither is a constant."""
        return len(args) > 1 and all(isinstance(x, Tensor) and self.run.tag(x).degree != CONSTANT for x in args[:2])

    def _add(self, function: str, first: Tensor, second: Tensor, result: Tensor) -> None:
        x, y = self.constants.residues_of(first), self.constants.residues_of(second)
        half = self.run.arithmetic.field.half
        numbers = (x.abs() <= half) & (y.abs() <= half)  # neither a symbol nor void
        counts = numbers & ((result == x) | (result == y))  # a piecewise function of both is neither
        self.run.arithmetic.choices.add(function, result == x, x == y, counts)


def _hold(operands: tuple[Tensor, ...], compared: tuple[StorageWeakRef, StorageWeakRef]) -> bool:
    """Whether these are the two tensors that were compared."""
    return {x.untyped_storage()._cdata for x in operands} == {one.cdata for one in compared}
