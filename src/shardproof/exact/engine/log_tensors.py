"""Log terms of tensors, kept beside their storages: read for a rule, stored of a result, moved, marked void."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import zip_longest
from math import nan
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from shardproof.exact.algebra.degree import CONSTANT, Degree
from shardproof.exact.algebra.residue import LogTerms, Residue
from shardproof.exact.engine.tags import LogTensors, Tag
from shardproof.exact.engine.tensor_trees import covers_storage, map_tensors, view_like

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

        def viewed(each: Sequence[Tensor]) -> tuple[Residue, ...]:
            return tuple(self._residue(term, x) for term in each)

        unit = None if known.unit is None else self._residue(known.unit, x)
        return LogTerms(rest=known.rest, shifts=viewed(known.shifts), unit=unit, factors=viewed(known.factors))

    def keep(self, tensor: Tensor, logs: LogTerms | None, *, divided: bool = False) -> None:
        """Store those of a whole storage; of a part of one they are not kept."""
        if logs is None or not covers_storage(tensor):
            return

        def laid_out(x: Residue) -> Tensor:
            found = torch.empty_strided(tensor.size(), tensor.stride(), dtype=torch.float64, device=tensor.device)
            self.run.tags.set(found.copy_(x.tensor), Tag(degree=x.degree, void=divided))
            return found

        known = LogTensors(
            rest=logs.rest,
            shifts=tuple(map(laid_out, logs.shifts)),
            unit=None if logs.unit is None else laid_out(logs.unit),
            factors=tuple(map(laid_out, logs.factors)),
        )
        self.run.tags.set(tensor, replace(self.run.tag(tensor), logs=known))

    def write(self, target: Tensor, value: Tensor, old: Tag) -> None:
        """Store those of a value that was written into a view.

        Args:
            target: the view, whose tag says already what its storage now holds.
            value: of its shape, or broadcast to it.
            old: the tag of the target's storage before.
        """
        logs = self.of(value)
        if covers_storage(target):
            self.keep(target, logs)
        elif (logs is not None or old.logs is not None) and target.numel():
            self._write_part(target, logs or LogTerms(rest=self.run.tag(value).degree), old)

    def _write_part(self, target: Tensor, logs: LogTerms, old: Tag) -> None:
        before = old.logs or LogTensors(rest=old.degree, shifts=(), unit=None, factors=())

        def written(there: Tensor | None, value: Residue | None, missing: float) -> Tensor:
            degree = CONSTANT if value is None else value.degree
            if there is None:
                there = torch.full((_elements_in_storage(target),), missing, dtype=torch.float64, device=target.device)
            else:
                degree |= self.run.tag(there).degree
                there = there.clone()
            view = view_like(there, target)
            view.fill_(missing) if value is None else view.copy_(value.tensor)
            self.run.tags.set(there, Tag(degree=degree, void=bool(there.isnan().any())))
            return there

        def all_written(there: tuple[Tensor, ...], values: tuple[Residue, ...]) -> tuple[Tensor, ...]:
            return tuple(written(*pair, _NO_SHIFT) for pair in zip_longest(there, values))

        unit = None
        if before.unit is not None or logs.unit is not None:
            unit = written(before.unit, logs.unit, _NO_UNIT)
        known = LogTensors(
            rest=_joined([before.rest, logs.rest]) or CONSTANT,
            shifts=all_written(before.shifts, logs.shifts),
            unit=unit,
            factors=all_written(before.factors, logs.factors),
        )
        self.run.tags.set(target, replace(self.run.tag(target), logs=known))

    def map(self, tensor: Tensor, function: Callable[[Tensor], Tensor]) -> LogTensors | None:
        """Those of a view with each tensor replaced by another of the view's shape."""
        known = self.run.tag(tensor).logs
        if known is None:
            return None

        def mapped(x: Tensor) -> Tensor:
            found = function(view_like(x, tensor))
            self.run.tags.set(found, replace(self.run.tag(x), void=False))
            return found

        unit = None if known.unit is None else mapped(known.unit)
        shifts, factors = tuple(map(mapped, known.shifts)), tuple(map(mapped, known.factors))
        return replace(known, shifts=shifts, unit=unit, factors=factors)

    def mark_void(self, tensor: Tensor, mask: Tensor) -> None:
        """Make elements void."""
        known = self.run.tag(tensor).logs
        for x in () if known is None else known.each():
            view_like(x, tensor).masked_fill_(mask, nan)
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
        rest = _joined([logs.rest for logs in terms.values()])
        if rest is None and filled(_NO_SHIFT) != given:
            rest = CONSTANT

        def moved(parts: dict[int, Residue | None], missing: float) -> Residue:
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

        def each(kind: Callable[[LogTerms], tuple[Residue, ...]]) -> tuple[Residue, ...]:
            parts = {key: kind(logs) for key, logs in terms.items()}
            return tuple(
                moved({key: part[i] if i < len(part) else None for key, part in parts.items()}, _NO_SHIFT)
                for i in range(max(map(len, parts.values())))
            )

        units = {key: logs.unit for key, logs in terms.items()}
        unit = None if all(part is None for part in units.values()) else moved(units, _NO_UNIT)
        shifts, factors = each(lambda logs: logs.shifts), each(lambda logs: logs.factors)
        self.keep(result, LogTerms(rest=rest, shifts=shifts, unit=unit, factors=factors))

    def _residue(self, x: Tensor, of: Tensor) -> Residue:
        return Residue(view_like(x, of), self.run.tag(x).degree, self.run.arithmetic)


def _elements_in_storage(x: Tensor) -> int:
    return x.untyped_storage().nbytes() // x.element_size()


def _joined(degrees: list[Degree | None]) -> Degree | None:
    found: Degree | None = None
    for degree in degrees:
        found = degree if found is None or degree is None else found | degree
    return found
