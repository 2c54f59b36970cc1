"""Pieces of tensors, kept beside their storages: read for a rule, stored of a result, moved, marked void."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import nan
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from shardproof.exact.algebra.residue import Pieces, Residue
from shardproof.exact.engine.log_tensors import LogStore
from shardproof.exact.engine.tags import PieceTensors, Tag, union
from shardproof.exact.engine.tensor_trees import covers_storage, map_tensors, view_like

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch._ops import OpOverload

    from shardproof.exact.engine.run import Run

_aten: Final = torch.ops.aten


@dataclass(frozen=True, slots=True, kw_only=True)
class PieceStore:
    """Keeps pieces in tags."""

    run: Run

    def of(self, x: Tensor) -> Pieces | None:
        """Those of a view, as a rule takes them."""
        known = self.run.tag(x).pieces
        if known is None or any(stride == 0 and size > 1 for stride, size in zip(x.stride(), x.shape, strict=True)):
            return None  # expanded: one element meets several others, as where the op broadcasts
        return Pieces(
            base=self._residue(known.base, x),
            thresholds=known.thresholds,
            values=tuple(self._residue(value, x) for value in known.values),
            of_exp=known.of_exp,
        )

    def keep(self, tensor: Tensor, pieces: Pieces | None, *, divided: bool = False) -> None:
        """Store those of a whole storage; of a part of one they are not kept."""
        if pieces is None or not covers_storage(tensor):
            return

        def laid_out(x: Residue) -> Tensor:
            if x.value is not None and x.ndim == 0:
                found = x.tensor.clone()
                self.run.tags.set(found, Tag(degree=x.degree, value=x.value.clone()))
                return found
            found = torch.empty_strided(tensor.size(), tensor.stride(), dtype=torch.float64, device=tensor.device)
            self.run.tags.set(found.copy_(x.tensor), Tag(degree=x.degree, void=divided, roots=x.roots))
            self._logs.keep(found, x.logs, divided=divided)
            return found

        base, *values = (laid_out(x) for x in pieces.each())
        known = PieceTensors(base=base, thresholds=pieces.thresholds, values=tuple(values), of_exp=pieces.of_exp)
        self.run.tags.set(tensor, replace(self.run.tag(tensor), pieces=known))

    def map(self, tensor: Tensor, function: Callable[[Tensor], Tensor]) -> PieceTensors | None:
        """Those of a view with each tensor replaced by another of the view's shape."""
        known = self.run.tag(tensor).pieces
        if known is None:
            return None

        def mapped(x: Tensor) -> Tensor:
            if self._is_single(x):
                return x
            view = view_like(x, tensor)
            found = function(view)
            logs = self._logs.map(view, function)
            self.run.tags.set(found, replace(self.run.tag(x), void=False, logs=logs))
            return found

        base, *values = (mapped(x) for x in known.each())
        return replace(known, base=base, values=tuple(values))

    def mark_void(self, tensor: Tensor, mask: Tensor) -> None:
        """Make elements void."""
        known = self.run.tag(tensor).pieces
        for x in () if known is None else known.each():
            if not self._is_single(x):
                view_like(x, tensor).masked_fill_(mask, nan)
                self.run.tags.set(x, replace(self.run.tag(x), void=True))

    def move(
        self, op: OpOverload, result: Tensor, operands: Sequence[Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Let pieces go where the operands' elements went, if all operands have the same thresholds."""
        pieces = [self.of(x) for x in operands]
        first = pieces[0]
        if first is None or any(other is None or other.thresholds != first.thresholds for other in pieces):
            return

        def moved(number: int) -> Residue:
            parts = {id(x): own.each()[number] for x, own in zip(operands, pieces, strict=True) if own is not None}
            one = next(iter(parts.values()))
            if all(_are_one_number(one, part) for part in parts.values()):
                return one
            spread = {key: part.tensor for key, part in parts.items()}
            given = map_tensors(lambda x: spread[id(x)].expand(x.shape) if id(x) in spread else x, (args, kwargs))
            degree = union(Tag(degree=part.degree) for part in parts.values()).degree
            return Residue(op(*given[0], **given[1]), degree, self.run.arithmetic)

        base, *values = (moved(number) for number in range(len(first.each())))
        self.keep(result, replace(first, base=base, values=tuple(values)))

    # ------------------------------------------------------------------------------------------------------------------

    @property
    def _logs(self) -> LogStore:
        """Values know theirs too: an exponential of |x| is one of x or of -x."""
        return LogStore(run=self.run)

    def _is_single(self, x: Tensor) -> bool:
        return x.ndim == 0 and self.run.tag(x).value is not None

    def _residue(self, x: Tensor, of: Tensor) -> Residue:
        tag = self.run.tag(x)
        if self._is_single(x):
            return Residue(x, tag.degree, self.run.arithmetic, value=tag.value)
        view = view_like(x, of)
        return Residue(view, tag.degree, self.run.arithmetic, roots=tag.roots, logs=self._logs.of(view))


def _are_one_number(x: Residue, y: Residue) -> bool:
    return x.value is not None and y.value is not None and x.ndim == y.ndim == 0 and bool(x.tensor == y.tensor)
