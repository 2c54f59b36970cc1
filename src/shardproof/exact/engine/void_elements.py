"""Void elements: which elements of an op's results come of a division by zero, so that the trial says nothing of them.

So are rows of grouped products that PyTorch leaves unwritten.

In a floating storage a void element is NaN, which sums, products and movements of data carry along by themselves.
Rules never see one: they are given another number in its place, and what comes of it is made void here. Which elements
of a result come of which operands' is asked of PyTorch's own op: it is run on floating numbers with NaN in the places
of void elements. `where`, `&` and `|`, and a product with a constant zero, may discard a void element; `fill_void`
replaces it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import nan
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from shardproof.exact.algebra.finite import any_nan
from shardproof.exact.algebra.groups import multiply_groups
from shardproof.exact.engine.tensor_trees import covers_storage, map_tensors, tensors_in, view_like
from shardproof.exact.rules.cut import FILL_VOID
from shardproof.exact.rules.registry import OF_ROWS, RULES, SELECTIONS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch._ops import OpOverload

    from shardproof.exact.engine.constants import Constants
    from shardproof.exact.engine.log_tensors import LogStore
    from shardproof.exact.engine.piece_tensors import PieceStore
    from shardproof.exact.engine.run import Run

_aten: Final = torch.ops.aten
_WHERE: Final = frozenset(getattr(_aten.where, name) for name in ("self", "ScalarSelf", "ScalarOther", "Scalar"))
_FILLS: Final = frozenset({_aten.masked_fill.Scalar, _aten.masked_fill.Tensor})
_PRODUCTS: Final = frozenset({_aten.mul.Tensor, _aten.mul.Scalar})
_ANDS: Final = frozenset({_aten.logical_and.default, _aten.bitwise_and.Tensor, _aten.__and__.Tensor})
_ORS: Final = frozenset({_aten.logical_or.default, _aten.bitwise_or.Tensor, _aten.__or__.Tensor})
_COPIES: Final = frozenset({_aten._to_copy.default, _aten.clone.default})
_GROUPED: Final = _aten._grouped_mm.default
_MOST: Final = 2.0**22  # more than any residue; numbers from 0.5 to 1.5 stand for what an op is asked about
# They pass over NaN.
_IGNORE_NAN: Final = frozenset({"nansum", "nanmedian", "nan_to_num", "fmax", "fmin"})


@dataclass(slots=True, kw_only=True)
class VoidElements:
    """Finds void elements, and marks what comes of them."""

    run: Run
    constants: Constants
    pieces: PieceStore
    logs: LogStore

    def of(self, x: Tensor) -> Tensor | None:
        """Which elements of a tensor are void, in its shape; None if none are."""
        if x.is_meta:
            return None
        tag = self.run.tag(x)
        if not tag.void:
            return None
        if x.is_floating_point() or x.is_complex():
            if not any_nan(x):
                return None
            found = x.isnan()
        elif tag.void_where is None:
            return torch.ones_like(x, dtype=torch.bool)
        else:
            found = view_like(tag.void_where, x)
        return found if bool(found.any()) else None

    def among(self, args: Any) -> dict[int, Tensor]:
        """Which elements are void, of each operand that has some: {id of the tensor: mask}."""
        if not any(self.run.tag(x).void for x in tensors_in(args) if not x.is_meta):
            return {}
        masks = {id(x): self.of(x) for x in tensors_in(args)}
        return {key: mask for key, mask in masks.items() if mask is not None}

    def replaced(self, args: Any, void: dict[int, Tensor]) -> Any:
        """The operands with residues in the places of void elements, for a rule."""

        def replaced(x: Tensor) -> Tensor:
            if id(x) not in void or not x.is_floating_point():
                return x
            tag, mask = self.run.tag(x), void[id(x)]
            found = x.contiguous().masked_fill(mask, 1.0)
            squared = None
            if tag.squared is not None:
                squared = view_like(tag.squared, x).contiguous().masked_fill(mask, 1.0)
                self.run.tags.set(squared, replace(self.run.tag(tag.squared), void=False))

            def filled(t: Tensor) -> Tensor:
                return t.contiguous().masked_fill(mask, 1.0)

            pieces, logs = self.pieces.map(x, filled), self.logs.map(x, filled)
            self.run.tags.set(found, replace(tag.bare, void=False, pieces=pieces, logs=logs, squared=squared))
            return found

        return map_tensors(replaced, args)

    # Marking ---------------------------------------------------------------------------------------------------------

    def spread(
        self, op: OpOverload, args: Any, void: dict[int, Tensor], result: Any, *, written: Sequence[Tensor] = ()
    ) -> None:
        """Make void what an op computed from void elements. Results that are views are what their storages are."""
        if torch.Tag.dynamic_output_shape in op.tags and self._give_shape(op, args, void):
            self.run.escaped_void = True
        operands = {x.untyped_storage()._cdata for x in tensors_in(args) if not x.is_meta}
        operands -= {x.untyped_storage()._cdata for x in written}
        results = [x for x in tensors_in(result) if not x.is_meta]
        found = self._found(op, args, void, results)
        for x, mask in zip(results, found, strict=True):
            if x.untyped_storage()._cdata not in operands:
                self.mark(x, mask)

    def mark(self, x: Tensor, mask: Tensor) -> None:
        """Make elements of a result void."""
        if not bool(mask.any()):
            return
        tag = self.run.tag(x)
        if not x.is_floating_point():
            known = mask.contiguous() if x.is_contiguous() and covers_storage(x) else None
            self.run.tags.set(x, replace(tag, void=True, void_where=known))
            return
        if tag.real:
            tag = self.constants.lift_in_place(x)
        x.masked_fill_(mask, nan)
        if tag.squared is not None:
            view_like(tag.squared, x).masked_fill_(mask, nan)
            self.run.tags.set(tag.squared, replace(self.run.tag(tag.squared), void=True))
        self.run.tags.set(x, replace(tag, void=True))
        self.pieces.mark_void(x, mask)
        self.logs.mark_void(x, mask)

    def _give_shape(self, op: OpOverload, args: Any, void: dict[int, Tensor]) -> bool:
        """Whether the shape of the result depends on void elements: on a mask of those that are taken, say."""
        if op._schema.name.removeprefix("aten::") not in {"index", "_unsafe_index", "masked_select"}:
            return True
        return any(x.dtype == torch.bool for x in tensors_in(args) if id(x) in void)

    def _found(self, op: OpOverload, args: Any, void: dict[int, Tensor], results: list[Tensor]) -> list[Tensor]:
        if op._schema.name.removeprefix("aten::") in _IGNORE_NAN and torch.Tag.pointwise not in op.tags:
            return [_everything(x) for x in results]
        if op is FILL_VOID:
            return [torch.zeros_like(x, dtype=torch.bool) for x in results]
        given = args[0]

        def of(x: Any) -> Tensor:
            mask = void.get(id(x)) if isinstance(x, Tensor) else None
            return torch.tensor(False) if mask is None else mask

        if op in _WHERE and len(given) == 3:
            choice, x, y = given
            if choice.is_floating_point():  # a gate, which discards what it multiplies by 0
                chosen = of(choice) | (of(x) & (choice != 0)) | (of(y) & (choice != 1))
                return [chosen.expand(results[0].shape)]
            chosen = of(choice) | torch.where(choice, of(x), of(y))
            return [chosen.expand(results[0].shape)]
        if op in _FILLS:
            x, choice, value = given
            return [(of(choice) | torch.where(choice, of(value), of(x))).expand(results[0].shape)]
        if op in _PRODUCTS:
            return [self._of_product(given[0], given[1], of).expand(results[0].shape)]
        if op in _ANDS or op in _ORS:
            x, y = (z.bool() if isinstance(z, Tensor) else torch.tensor(bool(z)) for z in given)
            decides_x, decides_y = (x, y) if op in _ORS else (~x, ~y)
            a, b = of(given[0]), of(given[1])
            mask = (a | b) & ~(decides_x & ~a) & ~(decides_y & ~b)
            return [mask.expand(results[0].shape)]
        if torch.Tag.pointwise in op.tags or op in _COPIES or op.namespace == "shardproof":
            mask = torch.tensor(False)
            for x in tensors_in(args):
                mask = mask | of(x)
            return [mask.expand(x.shape) for x in results]
        selects = op in SELECTIONS and op not in OF_ROWS
        probed = None if selects else self._probed(op, args, void)
        if probed is None or len(probed) != len(results):
            return [_everything(x) for x in results]
        found = [
            probe.isnan() if probe.is_floating_point() and probe.shape == x.shape else _everything(x)
            for probe, x in zip(probed, results, strict=True)
        ]
        rule = RULES.get(op)
        if rule is not None and rule.kind == "formula":
            # Backwards of functions with a kink compare, and NaN is neither above nor below it.
            for operand in tensors_in(args):
                found = [mask | of(operand) if mask.shape == operand.shape else mask for mask in found]
        return found

    def _of_product(self, x: Any, y: Any, of: Any) -> Tensor:
        """A product with a constant zero is zero, whatever is multiplied."""

        def zeros(z: Any) -> Tensor:
            if not isinstance(z, Tensor):
                return torch.tensor(z == 0)
            value = self.constants.value_of(z)
            return torch.tensor(False) if value is None else value == 0

        a, b = of(x), of(y)
        mask: Tensor = (a & ~(zeros(y) & ~b)) | (b & ~(zeros(x) & ~a))
        return mask

    def _probed(self, op: OpOverload, args: Any, void: dict[int, Tensor]) -> list[Tensor] | None:
        """The op's results on floating numbers, NaN where an operand is void; None if it cannot tell."""
        names = {a.name for a in op._schema.arguments}
        indices = {id(x) for x in _indices(op, args)} if names else set()
        if any(key in void for key in indices):
            return None

        def probe(x: Tensor) -> Tensor:
            if id(x) in indices or (not x.is_floating_point() and id(x) not in void):
                return x
            numbers = x.double().abs().clamp_(max=_MOST).mul_(1 / _MOST).add_(0.5)  # what is NaN stays NaN
            if id(x) not in void:
                return numbers.nan_to_num_(nan=1.0)
            return numbers if x.is_floating_point() else numbers.masked_fill_(void[id(x)], nan)

        positional, named = map_tensors(probe, args)
        try:
            found = _multiply_groups(*positional, **named) if op is _GROUPED else op(*positional, **named)
        except (RuntimeError, ValueError, IndexError, TypeError):
            return None
        return [x for x in tensors_in(found) if not x.is_meta]


def _everything(x: Tensor) -> Tensor:
    return torch.ones_like(x, dtype=torch.bool)


def _multiply_groups(a: Tensor, b: Tensor, offs: Tensor | None = None, *_rest: object, **_named: object) -> Tensor:
    """The product of groups in float64, for which PyTorch has no kernel."""
    return a @ b if offs is None else multiply_groups(torch.matmul, a, b, offs.tolist())


def _indices(op: OpOverload, args: Any) -> list[Tensor]:
    """The tensors that say which elements are taken, not the elements themselves."""
    names = [a.name for a in op._schema.arguments]
    given = (*zip(names, args[0], strict=False), *args[1].items())
    return [x for name, value in given if name in _INDEX_NAMES for x in tensors_in(value)]


_INDEX_NAMES: Final = frozenset({"index", "indices", "mask", "condition", "target", "offsets"})
