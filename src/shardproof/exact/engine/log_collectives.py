"""Log terms of tensors that a collective moves or adds up, between real processes; see `LogTerms`.

Where any rank knows some, the ranks agree on how many, and each kind is sent as the elements are. A sum over ranks has
the factors that are the same on all of them, wherever their elements are not zero; its shifts and units are not kept:
as a sum of numbers it is right without them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from shardproof.exact.algebra import degree_vector
from shardproof.exact.algebra.degree import CONSTANT
from shardproof.exact.algebra.residue import LogFactor, LogTerms, Residue
from shardproof.exact.engine.c10d import new_like

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from shardproof.exact.algebra.degree import Degree
    from shardproof.exact.engine.log_tensors import LogStore
    from shardproof.exact.engine.run import Run

_NOTHING: Final = float("-inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """What the ranks know together: how many shifts and factors at most, whether there are units and rests.

    Of softpluses and log factors they know the kinds that are the same on all ranks; otherwise none.
    """

    shifts: int
    factors: int
    softpluses: tuple[int, ...]
    log_factors: tuple[int, ...]
    whole: int
    units: bool
    rests: bool
    degree: Degree


@dataclass(frozen=True, slots=True, kw_only=True)
class LogCollectives:
    """Sends the log terms of one collective's tensors.

    Attributes:
        inputs: what this rank gives; nothing where it only receives.
        outputs: shaped as what it gets.
        largest: the largest of each number over the ranks.
    """

    run: Run
    logs: LogStore
    inputs: list[Tensor]
    outputs: list[Tensor]
    largest: Callable[[list[float]], list[float]]

    def moved(self, send: Callable[[list[Tensor], list[Tensor]], None]) -> list[LogTerms]:
        """Those of the results; `send` moves inputs to outputs."""
        terms = self._terms()
        known = self._agree(terms)

        def each(count: int, of: Callable[[LogTerms], Sequence[Residue]], missing: float) -> list[list[Residue]]:
            found = []
            for i in range(count):
                given = [_element(of(logs), i, missing, like=x) for logs, x in zip(terms, self.inputs, strict=True)]
                results = [new_like(x) for x in self.outputs]
                send(given, results)
                found.append([self.run.arithmetic.residue(x, known.degree) for x in results])
            return found

        shifts = each(known.shifts, lambda logs: logs.shifts, 0.0)
        factors = each(known.factors, lambda logs: logs.factors, 0.0)
        softpluses = each(len(known.softpluses), lambda logs: _arguments(logs.softpluses), 0.0)
        log_factors = each(len(known.log_factors), lambda logs: _arguments(logs.log_factors), 0.0)
        units = each(int(known.units), lambda logs: () if logs.unit is None else (logs.unit,), 1.0)
        return [
            LogTerms(
                rest=known.degree if known.rests else None,
                shifts=tuple(shift[i] for shift in shifts),
                unit=units[0][i] if units else None,
                factors=tuple(factor[i] for factor in factors),
                softpluses=_factors(known.softpluses, [argument[i] for argument in softpluses]),
                log_factors=_factors(known.log_factors, [argument[i] for argument in log_factors]),
                whole=known.whole,
            )
            for i in range(len(self.outputs))
        ]

    def added(self, take_largest: Callable[[list[Tensor], list[Tensor]], None]) -> list[LogTerms]:
        """Those of the sums; `take_largest` reduces inputs to outputs by their maximum."""
        terms = self._terms()
        known = self._agree(terms)
        found: list[list[Residue]] = [[] for _ in self.outputs]
        unused = [x == 0 for x in self.inputs]

        def greatest(given: list[Tensor]) -> list[Tensor]:
            results = [new_like(x) for x in self.outputs]
            take_largest([x.masked_fill(zero, _NOTHING) for x, zero in zip(given, unused, strict=True)], results)
            return results

        for i in range(known.factors):
            given = [_element(logs.factors, i, 0.0, like=x) for logs, x in zip(terms, self.inputs, strict=True)]
            for kept, high, low in zip(found, greatest(given), greatest([-x for x in given]), strict=True):
                nothing = high == _NOTHING
                if not bool((nothing | (high == -low)).all()):
                    return []
                kept.append(self.run.arithmetic.residue(high.masked_fill(nothing, 0.0), known.degree))
        return [LogTerms(rest=known.degree, factors=tuple(kept)) for kept in found]

    def _terms(self) -> list[LogTerms]:
        return [self.logs.of(x) or LogTerms(rest=self.run.tag(x).degree) for x in self.inputs]

    def _agree(self, terms: list[LogTerms]) -> _Known:
        counts = [
            max((len(logs.shifts) for logs in terms), default=0),
            max((len(logs.factors) for logs in terms), default=0),
            any(logs.unit is not None for logs in terms),
            any(logs.rest is not None for logs in terms),
            any(logs.softpluses for logs in terms),
        ]
        codes = [_codes(terms, of) for of in (lambda logs: logs.softpluses, lambda logs: logs.log_factors, _wholes)]
        degree = CONSTANT
        for logs in terms:
            for term in logs.each():
                degree |= term.degree
            degree |= logs.rest or CONSTANT
        said = [*map(float, counts), *(code for pair in codes for code in pair), *degree_vector.to_numbers(degree)]
        shifts, factors, units, rests, any_softpluses, *agreed = self.largest(said)
        softpluses, log_factors, whole = (_kinds(*agreed[i : i + 2]) for i in (0, 2, 4))
        return _Known(
            shifts=int(shifts),
            factors=int(factors),
            softpluses=softpluses,
            log_factors=log_factors,
            whole=sum(whole),
            units=units > 0,
            rests=rests > 0 or (any_softpluses > 0 and not softpluses),
            degree=degree_vector.from_numbers(agreed[6:]),
        )


# A tuple of -1, 0 and 1 as one number, and back: digits 1, 2 and 3 of a number to the base 4.


def _wholes(logs: LogTerms) -> tuple[LogFactor, ...]:
    return (LogFactor(argument=logs.log_factors[0].argument, binomial=logs.whole),) if logs.log_factors else ()


def _codes(terms: list[LogTerms], of: Callable[[LogTerms], tuple[LogFactor, ...]]) -> tuple[float, float]:
    """The largest of the kinds' numbers, and of their negatives."""
    numbers = [sum((factor.binomial + 2) * 4**i for i, factor in enumerate(of(logs))) for logs in terms]
    return float(max(numbers, default=0)), float(max((-number for number in numbers), default=0))


def _kinds(largest: float, largest_negative: float) -> tuple[int, ...]:
    """The kinds, if they are the same everywhere."""
    number, found = int(largest) if largest == -largest_negative else 0, []
    while number:
        number, digit = divmod(number, 4)
        found.append(digit - 2)
    return tuple(found)


def _arguments(factors: Sequence[LogFactor]) -> list[Residue]:
    return [factor.argument for factor in factors]


def _factors(kinds: Sequence[int], arguments: Sequence[Residue]) -> tuple[LogFactor, ...]:
    return tuple(LogFactor(argument=x, binomial=kind) for kind, x in zip(kinds, arguments, strict=True))


def _element(terms: Sequence[Residue], number: int, missing: float, *, like: Tensor) -> Tensor:
    if number < len(terms):
        return terms[number].tensor.contiguous()
    return torch.full(like.shape, missing, dtype=torch.float64, device=like.device)
