"""Numeric findings: what the numbers in the user's own dtypes say, beside an exact proof or instead of one.

Rounding hides what is smaller than it: a finding of this kind is never a proof.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING

import torch

from shardproof.errors import CannotRunError
from shardproof.proving.findings import Finding, Verdict
from shardproof.proving.judging.marks import mark_roots
from shardproof.proving.judging.noise import largest
from shardproof.proving.judging.outcomes import misshape_of, walk
from shardproof.proving.records import ACTIVATIONS, Key, Phase

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from torch import Tensor

    from shardproof.proving.axes import Axes
    from shardproof.proving.judging.alignment import Aligned, Held
    from shardproof.proving.judging.noise import Numbers, OwnRuns
    from shardproof.proving.running.collective_log import Parting

# How many times the noise a relation may miss by: closer than what is rounding, for it is one of several looked for.
_NEAR = 4.0
_FACTORS = (*(Fraction(n) for n in range(2, 17)), *(Fraction(1, n) for n in range(2, 17)))

# Beside an exact proof ---------------------------------------------------------------------------------------------


def add_numbers(
    findings: Sequence[Finding], own: OwnRuns, *, agreed: Collection[Key], parting: Parting | None, dtype: str
) -> tuple[Finding, ...]:
    """Each finding with its numbers. What is proved and yet far outside the noise is wrong: other code ran.

    Args:
        findings: of the exact runs.
        own: the runs in the user's own dtypes.
        agreed: what was equal in exact arithmetic, activations too: there the trouble may start.
        parting: where the sequences of collectives part, a finding of its own.
        dtype: the user's, in words.
    """
    numbered = {finding.key: replace(finding, numbers=own.of(finding.key)) for finding in findings}
    far = {key for key, one in numbered.items() if one.verdict is Verdict.PROVED and one.numbers and one.numbers.far}
    if parting is None and not far:
        return tuple(numbered.values())
    cause = (
        f"proved in exact arithmetic, and not what {dtype} computes: a path that only {dtype} takes, "
        "or a choice that rounding turns"
    )
    told: list[Finding] = [] if parting is None else [_of_parting(parting, dtype)]
    for key in own.measured.ranks[0].tensors:
        if key in far:
            told.append(replace(numbered.pop(key), verdict=Verdict.WRONG, cause=cause))
        elif key in numbered:
            told.append(numbered.pop(key))
        elif far and key in agreed and key.phase in ACTIVATIONS:
            numbers = own.of(key)
            if numbers is not None and numbers.far:
                told.append(Finding(key=key, verdict=Verdict.WRONG, cause=cause, numbers=numbers))
    marked = mark_roots([*told, *numbered.values()])
    if parting is None:
        return marked
    return tuple(replace(one, root=one.root and one.cause != cause) for one in marked)


def _of_parting(parting: Parting, dtype: str) -> Finding:
    exact, native = (one or "none" for one in (parting.exact, parting.native))
    return Finding(
        key=Key(parting.first.step, Phase.COLLECTIVES, parting.first.place),
        verdict=Verdict.UNDECIDED if parting.only_shapes else Verdict.WRONG,
        cause=f"in exact arithmetic {exact}; in {dtype} {native}",
        ranks=parting.ranks,
    )


# Instead of one ----------------------------------------------------------------------------------------------------


def conclude_numerically(own: OwnRuns) -> tuple[Finding, ...]:
    """One finding a tensor from its numbers alone; activations only where something that follows is not ok.

    Raises:
        CannotRunError: nothing was compared.
    """
    found = walk(own.measured, lambda key, aligned: _finding(key, aligned, own), _faulty)
    results = [finding for key, finding in found.items() if key.phase not in ACTIVATIONS]
    if not results:
        raise CannotRunError("nothing was compared: the step computes no gradient, loss or update")
    if all(finding.verdict.ok for finding in results):
        return tuple(results)
    return mark_roots([one for key, one in found.items() if key.phase not in ACTIVATIONS or not one.verdict.ok])


def _faulty(key: Key, fault: str) -> Finding:
    return Finding(key=key, verdict=Verdict.WRONG, cause=fault)


def _finding(key: Key, aligned: Aligned, own: OwnRuns) -> Finding:
    misshapen = misshape_of(aligned)
    if misshapen:
        return _faulty(key, misshapen)
    numbers = own.of(key)
    if numbers is None:
        return Finding(key=key, verdict=Verdict.UNDECIDED, cause="the reference has no rounding noise to measure")
    held = aligned.held
    verdict = numbers.verdict
    if verdict is not Verdict.ROUNDING and key.phase in ACTIVATIONS and _sum_is_near(held, numbers, own.measured.axes):
        verdict = Verdict.ROUNDING  # partial values: whoever uses them unreduced is the one that parts
    return Finding(
        key=key,
        verdict=verdict,
        cause=_explain(held, numbers, own.measured.axes) if verdict is Verdict.WRONG else "",
        ranks=tuple(rank for rank, one in held.items() if not _is_near(one.actual, one.expected, numbers))
        if verdict is Verdict.WRONG
        else (),
        elements=sum(one.expected.numel() for one in held.values()),
        numbers=numbers,
    )


def _explain(held: Mapping[int, Held], numbers: Numbers, axes: Axes) -> str:
    """A relation that explains the difference but for rounding; empty if none of the few that are looked for does."""
    if _sum_is_near(held, numbers, axes):
        return "ranks hold partial values whose sum is about right: an all-reduce is missing"
    for factor in _FACTORS:
        if all(_is_near(one.actual, one.expected * float(factor), numbers) for one in held.values()):
            return f"about {factor} times too large" if factor > 1 else f"about {1 / factor} times too small"
    return ""


def _sum_is_near(held: Mapping[int, Held], numbers: Numbers, axes: Axes) -> bool:
    """Whether it is, but for rounding, the sum over some axes of what the ranks hold."""
    return any(
        all(_sums_up([held[rank] for rank in group], numbers) for group in axes.groups(names))
        for names in axes.choices()
        if len(held) == axes.size
    )


def _sums_up(group: Sequence[Held], numbers: Numbers) -> bool:
    expected = group[0].expected
    if not all(torch.equal(one.expected, expected) for one in group):
        return False
    return _is_near(torch.stack([one.actual.double() for one in group]).sum(0), expected, numbers)


def _is_near(actual: Tensor, expected: Tensor, numbers: Numbers) -> bool:
    return largest(actual.double() - expected) <= _NEAR * numbers.noise
