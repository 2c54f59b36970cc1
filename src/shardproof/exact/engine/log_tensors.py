"""Log terms of tensors, kept beside their storages: read for a rule, stored of a result, moved, marked void."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import zip_longest
from math import nan
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from shardproof.exact.algebra.degree import CONSTANT, Degree
from shardproof.exact.algebra.residue import MASKING, LogFactor, LogTerms, Residue
from shardproof.exact.engine.tags import LogTensors, Tag
from shardproof.exact.engine.tensor_trees import covers_storage, map_tensors, view_like

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from torch._ops import OpOverload

    from shardproof.exact.engine.run import Run

# What a tensor without shifts, or without a unit, has in their place.
_NO_SHIFT: Final = 0.0
_NO_UNIT: Final = 1.0
# Ops of which each element of the result is one of the floating operands'.
_TAKES_ELEMENTS: Final = frozenset(
    getattr(torch.ops.aten, name).default
    for name in (
        *("clone", "contiguous", "_to_copy", "cat", "stack", "repeat", "flip", "roll", "reshape", "gather", "take"),
        *("index_select", "masked_select", "expand_copy", "permute_copy", "view_copy", "embedding"),
    )
) | {torch.ops.aten.index.Tensor, torch.ops.aten.where.self}
# Below are the symbols of masks, the lowest numbers of float64 and float32 and -inf.
_SYMBOLS: Final = -3e38


@dataclass(frozen=True, slots=True, kw_only=True)
class LogStore:
    """Keeps log terms in tags."""

    run: Run

    def of(self, x: Tensor) -> LogTerms | None:
        """Those of a view, as a rule takes them."""
        tag = self.run.tag(x)
        known = tag.logs
        if known is None:
            depth = _depth_of_constants(x, tag)
            return None if depth is None else LogTerms(rest=tag.degree, depth=depth)

        def viewed(each: Sequence[Tensor]) -> tuple[Residue, ...]:
            return tuple(self._residue(term, x) for term in each)

        unit = None if known.unit is None else self._residue(known.unit, x)
        depth = None if known.depth is None else view_like(known.depth, x)
        return LogTerms(
            rest=known.rest,
            shifts=viewed(known.shifts),
            unit=unit,
            factors=viewed(known.factors),
            softpluses=self._factors(known.softpluses, x),
            log_factors=self._factors(known.log_factors, x),
            whole=known.whole,
            depth=depth,
        )

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
            softpluses=tuple((laid_out(factor.argument), factor.binomial) for factor in logs.softpluses),
            log_factors=tuple((laid_out(factor.argument), factor.binomial) for factor in logs.log_factors),
            whole=logs.whole,
            depth=None if logs.depth is None else _laid_out_as(tensor, logs.depth),
        )
        self.run.tags.set(tensor, replace(self.run.tag(tensor), logs=known))

    def write(self, target: Tensor, value: Tensor, old: Tag, logs: LogTerms | None) -> None:
        """Store those of a value that was written into a view.

        Args:
            target: the view, whose tag says already what its storage now holds.
            value: of its shape, or broadcast to it.
            old: the tag of the target's storage before.
            logs: those of the value.
        """
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
        # A part of a sum forgets its softpluses, a part of a product its log factors.
        rests = [_rest_of(before, old.degree), _rest_of(logs, self.run.tag(target).degree)]
        known = LogTensors(
            rest=_joined(rests) or CONSTANT,
            shifts=all_written(before.shifts, logs.shifts),
            unit=unit,
            factors=all_written(before.factors, logs.factors),
            depth=self._write_depth(target, logs.depth, before.depth),
        )
        self.run.tags.set(target, replace(self.run.tag(target), logs=known))

    def _write_depth(self, target: Tensor, depth: Tensor | None, before: Tensor | None) -> Tensor | None:
        if depth is None and before is None:
            return None
        if before is None:
            before = torch.zeros(_elements_in_storage(target), dtype=torch.float64, device=target.device)
        after = before.clone()
        view = view_like(after, target)
        view.zero_() if depth is None else view.copy_(depth)
        return after

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
        depth = None if known.depth is None else view_like(known.depth, tensor).expand(tensor.shape).contiguous()
        return replace(
            known,
            shifts=tuple(map(mapped, known.shifts)),
            unit=unit,
            factors=tuple(map(mapped, known.factors)),
            softpluses=tuple((mapped(argument), binomial) for argument, binomial in known.softpluses),
            log_factors=tuple((mapped(argument), binomial) for argument, binomial in known.log_factors),
            depth=depth,
        )

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
        depths: tuple[tuple[Any, ...], dict[str, Any]],
    ) -> None:
        """Let log terms go where the operands' elements went.

        Args:
            op: which moves elements.
            result: of the op.
            operands: its floating tensors.
            given: its arguments.
            filled: its arguments with a number in place of every number that stands for elements.
            depths: its arguments with the depth of each of these numbers, see `depth_of_number`.
        """
        terms = {id(x): self.of(x) or LogTerms(rest=self.run.tag(x).degree) for x in operands}
        softpluses = self._moved_factors(op, {key: logs.softpluses for key, logs in terms.items()}, given)
        log_factors = self._moved_factors(op, {key: logs.log_factors for key, logs in terms.items()}, given)
        degree = self.run.tag(result).degree
        rest = _joined([logs.rest if softpluses else _rest_of(logs, degree) for logs in terms.values()])
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
        found = LogTerms(
            rest=rest,
            shifts=shifts,
            unit=unit,
            factors=factors,
            softpluses=softpluses,
            log_factors=log_factors,
            whole=_one_sign(terms.values()) if op in _TAKES_ELEMENTS and filled(_NO_SHIFT) == given else 0,
            depth=self._moved_depth(op, terms, depths),
        )
        self.keep(result, found)

    def _moved_factors(
        self, op: OpOverload, factors: dict[int, tuple[LogFactor, ...]], given: tuple[tuple[Any, ...], dict[str, Any]]
    ) -> tuple[LogFactor, ...]:
        """The arguments where the operands' elements went, where all operands have the same kinds; else none."""
        first, *others = factors.values()
        if any(_kinds_of(own) != _kinds_of(first) for own in others):
            return ()

        def moved(number: int) -> LogFactor:
            arguments = {key: own[number].argument for key, own in factors.items()}
            args, kwargs = map_tensors(
                lambda x: arguments[id(x)].tensor.expand(x.shape) if id(x) in arguments else x, given
            )
            degree = _joined([argument.degree for argument in arguments.values()]) or CONSTANT
            found = Residue(op(*args, **kwargs), degree, self.run.arithmetic)
            return LogFactor(argument=found, binomial=first[number].binomial)

        return tuple(map(moved, range(len(first))))

    def _moved_depth(
        self, op: OpOverload, terms: dict[int, LogTerms], given: tuple[tuple[Any, ...], dict[str, Any]]
    ) -> Tensor | None:
        """The depths of the operands, and of numbers that fill, where their elements went; None where all are 0."""

        def depth_of(x: Tensor) -> Tensor:
            if id(x) not in terms:
                return x
            depth = terms[id(x)].depth
            return torch.zeros(x.shape, dtype=torch.float64, device=x.device) if depth is None else depth

        args, kwargs = map_tensors(depth_of, given)
        depth: Tensor = op(*args, **kwargs)
        return depth if bool((depth != 0).any()) else None

    def _factors(self, known: Sequence[tuple[Tensor, int]], of: Tensor) -> tuple[LogFactor, ...]:
        return tuple(LogFactor(argument=self._residue(x, of), binomial=binomial) for x, binomial in known)

    def _residue(self, x: Tensor, of: Tensor) -> Residue:
        return Residue(view_like(x, of), self.run.tag(x).degree, self.run.arithmetic)


def _one_sign(terms: Iterable[LogTerms]) -> int:
    """`whole` of all of them, 0 where they differ."""
    first, *others = {logs.whole for logs in terms}
    return 0 if others else first


def _kinds_of(factors: Sequence[LogFactor]) -> list[int]:
    return [factor.binomial for factor in factors]


def _rest_of(logs: LogTerms | LogTensors, degree: Degree) -> Degree | None:
    """The degree of the rest, to which softpluses belong where they are forgotten: that of the whole number."""
    return degree if logs.softpluses else logs.rest


def depth_of_number(number: float) -> float:
    """The number if it is a mask's, else 0; the symbols of masks are looked at by themselves."""
    return float(number) if _SYMBOLS < number <= MASKING else 0.0


def _depth_of_constants(x: Tensor, tag: Tag) -> Tensor | None:
    """The numbers of masks among constants; None where there are none."""
    numbers = x if tag.real else None if tag.value is None else view_like(tag.value, x)
    if numbers is None or not numbers.is_floating_point():
        return None
    if numbers.numel() and bool(numbers.amin() > MASKING):  # False where there is NaN
        return None
    masking = (numbers <= MASKING) & (numbers > _SYMBOLS)
    return numbers.where(masking, 0.0) if bool(masking.any()) else None


def _laid_out_as(tensor: Tensor, companion: Tensor) -> Tensor:
    found = torch.empty_strided(tensor.size(), tensor.stride(), dtype=torch.float64, device=tensor.device)
    return found.copy_(companion)


def _elements_in_storage(x: Tensor) -> int:
    return x.untyped_storage().nbytes() // x.element_size()


def _joined(degrees: list[Degree | None]) -> Degree | None:
    found: Degree | None = None
    for degree in degrees:
        found = degree if found is None or degree is None else found | degree
    return found
