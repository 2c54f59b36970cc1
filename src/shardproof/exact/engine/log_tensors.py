"""Log terms of tensors, kept beside their storages: read for a rule, stored of a result, moved, marked void."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import nan
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from shardproof.exact.algebra.degree import CONSTANT, Degree
from shardproof.exact.algebra.residue import LogTerms, Residue
from shardproof.exact.engine.tags import LogTensors, Tag
from shardproof.exact.engine.tensor_trees import covers_storage, map_tensors

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch._ops import OpOverload

    from shardproof.exact.engine.run import Run

# What a tensor without shifts, or without a unit, has in their place.
_NO_SHIFT: Final = 0.0
_NO_UNIT: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LogStore:
    """Keeps log terms in tags."""

    run: Run

    def of(self, x: Tensor) -> LogTerms | None:
        """Those of a view, as a rule takes them."""
        known = self.run.tag(x).logs
        if known is None:
            return None
        return LogTerms(
            rest=known.rest,
            shifts=tuple(self._residue(shift, x) for shift in known.shifts),
            unit=None if known.unit is None else self._residue(known.unit, x),
        )

    def keep(self, tensor: Tensor, logs: LogTerms | None, *, divided: bool = False) -> None:
        """Store those of a whole storage; of a part of one they are not kept."""
        if logs is None or not covers_storage(tensor):
            return

        def laid_out(x: Residue) -> Tensor:
            found = torch.empty_strided(tensor.size(), tensor.stride(), dtype=torch.float64, device=tensor.device)
            self.run.tags.set(found.copy_(x.tensor), Tag(degree=x.degree, void=divided))
            return found

        unit = None if logs.unit is None else laid_out(logs.unit)
        known = LogTensors(rest=logs.rest, shifts=tuple(laid_out(x) for x in logs.shifts), unit=unit)
        self.run.tags.set(tensor, replace(self.run.tag(tensor), logs=known))

    def map(self, tensor: Tensor, function: Callable[[Tensor], Tensor]) -> LogTensors | None:
        """Those of a view with each tensor replaced by another of the view's shape."""
        known = self.run.tag(tensor).logs
        if known is None:
            return None

        def mapped(x: Tensor) -> Tensor:
            found = function(_viewed(x, tensor))
            self.run.tags.set(found, replace(self.run.tag(x), void=False))
            return found

        unit = None if known.unit is None else mapped(known.unit)
        return replace(known, shifts=tuple(mapped(x) for x in known.shifts), unit=unit)

    def mark_void(self, tensor: Tensor, mask: Tensor) -> None:
        """Make elements void."""
        known = self.run.tag(tensor).logs
        for x in () if known is None else known.each():
            _viewed(x, tensor).masked_fill_(mask, nan)
            self.run.tags.set(x, replace(self.run.tag(x), void=True))

    def move(
        self,
        op: OpOverload,
        result: Tensor,
        operands: Sequence[Tensor],
        given: tuple[tuple[Any, ...], dict[str, Any]],
        *,
        filled: Callable[[float], tuple[tuple[Any, ...], dict[str, Any]]],
    ) -> None:
        """Let log terms go where the operands' elements went.

        Args:
            op: which moves elements.
            result: of the op.
            operands: its floating tensors.
            given: its arguments.
            filled: its arguments with a number in place of every number that stands for elements.
        """
        terms = {id(x): self.of(x) or LogTerms(rest=self.run.tag(x).degree) for x in operands}
        with_unit = any(logs.unit is not None for logs in terms.values())
        if with_unit and any(logs.shifts for logs in terms.values()):
            return  # a sum of exponentials beside a maximum: rare, and they would have to be made alike
        rest = _joined([logs.rest for logs in terms.values()])
        if rest is None and filled(_NO_SHIFT) != given:
            rest = CONSTANT

        def moved(number: int, missing: float) -> Residue:
            parts = {key: self._part(logs, number) for key, logs in terms.items()}

            def part_of(x: Tensor) -> Tensor:
                if id(x) not in parts:
                    return x
                part = parts[id(x)]
                if part is None:
                    return torch.full(x.shape, missing, dtype=torch.float64, device=x.device)
                return part.tensor.expand(x.shape)

            args, kwargs = map_tensors(part_of, filled(missing))
            degree = _joined([part.degree for part in parts.values() if part is not None])
            return Residue(op(*args, **kwargs), degree or CONSTANT, self.run.arithmetic)

        count = max(len(logs.each()) for logs in terms.values())
        if with_unit:
            self.keep(result, LogTerms(rest=rest, unit=moved(0, _NO_UNIT)))
        else:
            shifts = tuple(moved(number, _NO_SHIFT) for number in range(count))
            self.keep(result, LogTerms(rest=rest, shifts=shifts))

    def _part(self, logs: LogTerms, number: int) -> Residue | None:
        return logs.each()[number] if number < len(logs.each()) else None

    def _residue(self, x: Tensor, of: Tensor) -> Residue:
        return Residue(_viewed(x, of), self.run.tag(x).degree, self.run.arithmetic)


def _viewed(x: Tensor, like: Tensor) -> Tensor:
    return x.as_strided(like.size(), like.stride(), like.storage_offset())


def _joined(degrees: list[Degree | None]) -> Degree | None:
    found: Degree | None = None
    for degree in degrees:
        found = degree if found is None or degree is None else found | degree
    return found
