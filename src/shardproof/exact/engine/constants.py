"""Constants: the residues of real numbers, and the real numbers of residues.

A tensor made inside is real until it meets a residue; then it is lifted. One from outside is lifted at once. Either way
its real numbers are kept beside the residues for as long as all that is computed comes of known numbers alone, so that
comparisons go by them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import torch

from shardproof.exact.algebra.finite import any_nan
from shardproof.exact.algebra.lift import is_symbol
from shardproof.exact.engine.tensor_trees import covers_storage, map_tensors, tensors_in, view_like, whole_storage
from shardproof.exact.rules.registry import REAL_TOO

if TYPE_CHECKING:
    from torch import Tensor
    from torch._ops import OpOverload

    from shardproof.exact.engine.run import Run
    from shardproof.exact.engine.tags import Tag
    from shardproof.exact.rules.registry import Rule

_aten: Final = torch.ops.aten
# Besides elementwise ops and movements, what PyTorch computes of known constants in one way only.
_ARITHMETIC: Final = frozenset(
    {
        *(_aten.sum.default, _aten.sum.dim_IntList, _aten.mean.default, _aten.mean.dim, _aten.prod.default),
        *(_aten.prod.dim_int, _aten.cumprod.default, _aten.mm.default, _aten.bmm.default, _aten.mv.default),
        *(_aten.dot.default, _aten.addmm.default, _aten.index_add.default, _aten.scatter_add.default),
        *(_aten._softmax.default, _aten.linalg_vector_norm.default, _aten.var.correction, _aten.std.correction),
    }
)


@dataclass(slots=True, kw_only=True)
class Constants:
    """Lifts real numbers, and keeps those of residues."""

    run: Run

    # Known numbers ---------------------------------------------------------------------------------------------------

    def value_of(self, tensor: Tensor) -> Tensor | None:
        """The real numbers that a tensor's elements stand for; None where they are not all known."""
        tag = self.run.tag(tensor)
        if tensor.is_complex():
            return tensor if tag.real else None
        if not tensor.is_floating_point():
            return tensor
        if tag.real or tag.value is None:
            return tensor if tag.real else None
        value = view_like(tag.value, tensor)
        return value if tag.void or not bool(value.isnan().any()) else None  # memory that was never written

    def constant_of(self, tensor: Tensor) -> Tensor | None:
        """The same; None too where comparing residues chose the numbers, which are then known in this run alone."""
        tag = self.run.tag(tensor)
        return None if tag.compared or tag.degree.orders else self.value_of(tensor)

    def keep_value(self, tensor: Tensor, value: Tensor) -> None:
        """Keep the real numbers that the residues of a whole storage stand for, unless one of them is none."""
        if not covers_storage(tensor):
            return
        unknown = value.isnan() | value.isposinf()
        tag = self.run.tag(tensor)
        if bool((unknown & ~tensor.isnan() if tag.void else unknown).any()):
            return
        if not tag.real:
            kept = torch.empty_strided(tensor.size(), tensor.stride(), dtype=torch.float64, device=tensor.device)
            self.run.tags.set(tensor, replace(tag, value=kept.copy_(value)))

    # Lifting ---------------------------------------------------------------------------------------------------------

    def residues_of(self, tensor: Tensor, *, unwritten: bool = False) -> Tensor:
        """The residues of a tensor that may still be real; the tensor itself if it is not.

        Args:
            tensor: a floating one.
            unwritten: memory that was never written (NaN) may be among it: it is moved or overwritten, not computed
                with.
        """
        tag = self.run.tag(tensor)
        if not tag.real:
            return tensor
        if tag.lifted is None:
            tag = self._lift(tensor, tag)
        assert tag.lifted is not None
        residues = view_like(tag.lifted, tensor)
        if not unwritten and any_nan(residues):
            self.run.refuse_nan(
                "NaN is used: memory that was never written (torch.empty), or NaN or infinity from outside"
            )
        return residues

    def symbols_in(self, tensor: Tensor) -> bool:
        """Whether the tensor's storage can hold -inf or the lowest finite number."""
        tag = self.run.tag(tensor)
        if tag.real and tag.lifted is None:
            tag = self._lift(tensor, tag)
        return tag.symbols

    def lift_in_place(self, tensor: Tensor) -> Tag:
        """Replace the reals of a whole storage by their residues, before a residue is written among them."""
        tag = self.run.tag(tensor)
        if tag.lifted is None:
            tag = self._lift(tensor, tag)
        assert tag.lifted is not None
        whole = whole_storage(tensor)
        numbers = whole.clone()
        whole.copy_(tag.lifted)
        chosen = tag.compared or bool(tag.degree.orders)
        return replace(tag.bare, real=False, value=None if chosen else numbers)

    def _lift(self, tensor: Tensor, tag: Tag) -> Tag:
        whole = whole_storage(tensor)
        # What was never written stays NaN, which differs from everything that it is compared with.
        unwritten = whole.isnan() if any_nan(whole) else None
        try:
            lifted = self.run.arithmetic.lift.tensor(whole if unwritten is None else whole.masked_fill(unwritten, 0.0))
        except FloatingPointError as error:
            self.run.refuse_nan(error)
        symbols = lifted.numel() > 0 and bool(lifted.amin() < -self.run.arithmetic.field.half)
        if unwritten is not None:
            lifted.masked_fill_(unwritten, float("nan"))
        tag = replace(tag, lifted=lifted, symbols=symbols)
        self.run.tags.set(tensor, tag)
        return tag

    # Computing beside residues ---------------------------------------------------------------------------------------

    def as_reals(
        self, op: OpOverload, rule: Rule, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """The operands as the real numbers that they stand for, where all are known and PyTorch can compute with them.

        None where the op has no such result: ops that draw, normalise with running statistics, or factorize.
        """
        if (
            op not in REAL_TOO
            and op not in _ARITHMETIC
            and torch.Tag.pointwise not in op.tags
            and rule.kind == "formula"
        ):
            return None
        if op.namespace != "aten":
            return None
        values: dict[int, Tensor] = {}
        for x in tensors_in((args, kwargs)):
            value = self.constant_of(x)
            if value is None:
                return None
            if x.is_floating_point():
                values[id(x)] = value
        found: tuple[tuple[Any, ...], dict[str, Any]] = map_tensors(lambda x: values.get(id(x), x), (args, kwargs))
        return found

    def keep(
        self, op: OpOverload, known: tuple[tuple[Any, ...], dict[str, Any]], operands: list[Tensor], result: Any
    ) -> None:
        """Beside what an op computed of constants, keep the real numbers that this stands for."""
        views = {x.untyped_storage()._cdata for x in operands}
        results = tensors_in(result)
        if all(x.untyped_storage()._cdata in views or not x.is_floating_point() for x in results):
            return
        for x, value in zip(results, tensors_in(op(*known[0], **known[1])), strict=True):
            if x.is_floating_point() and x.untyped_storage()._cdata not in views:
                self.keep_value(x, value)


def symbol_among(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a Python number among the arguments is a symbol of masks."""
    for value in args:
        if isinstance(value, float) and is_symbol(value):
            return True
    return bool(kwargs) and any(isinstance(value, float) and is_symbol(value) for value in kwargs.values())
