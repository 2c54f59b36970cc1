"""Numeric findings: what the numbers in the user's own dtypes say, beside an exact proof or instead of one.

An error smaller than rounding noise is not seen, so a finding of this kind is never a proof.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from shardproof.errors import CannotRunError
from shardproof.proving.cause import Cause, CauseKind
from shardproof.proving.findings import Finding, Verdict
from shardproof.proving.judging.causes import Difference, axes_of_sum, explain
from shardproof.proving.judging.closeness import WithinNoise
from shardproof.proving.judging.marks import mark_roots
from shardproof.proving.judging.outcomes import cause_of_shape, walk
from shardproof.proving.records import ACTIVATIONS

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from shardproof.proving.judging.alignment import Aligned
    from shardproof.proving.judging.noise import OwnRuns
    from shardproof.proving.records import Key

# Beside an exact proof ---------------------------------------------------------------------------------------------


def add_numbers(
    findings: Sequence[Finding], own: OwnRuns, *, agreed: Collection[Key], divergence: Finding | None, dtype: str
) -> tuple[Finding, ...]:
    """Each finding with its numbers. What is proved and yet far outside the noise is WRONG: other code ran.

    Args:
        findings: of the exact runs.
        own: the runs in the user's own dtypes.
        agreed: what was equal in exact arithmetic, activations too: one of them may be the first that is far off.
        divergence: the finding that says where the sequences of collectives diverge, if they do.
        dtype: the user's, as `Native.dtype`.
    """
    numbered = {finding.key: replace(finding, numbers=own.of(finding.key)) for finding in findings}
    far = {key for key, one in numbered.items() if one.verdict is Verdict.PROVED and one.numbers and one.numbers.far}
    if divergence is None and not far:
        return tuple(numbered.values())
    cause = Cause(kind=CauseKind.ONLY_IN_NATIVE_DTYPE, dtype=dtype)
    told: list[Finding] = [] if divergence is None else [divergence]
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
    if divergence is None:
        return marked
    return tuple(replace(one, root=one.root and one.cause != cause) for one in marked)


# Instead of one ----------------------------------------------------------------------------------------------------


def conclude_numerically(own: OwnRuns) -> tuple[Finding, ...]:
    """One finding for each tensor from its numbers alone; activations only where something that follows is not ok.

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


def _faulty(key: Key, fault: Cause) -> Finding:
    verdict = Verdict.VACUOUS if fault.kind is CauseKind.NO_GRADIENT else Verdict.WRONG
    return Finding(key=key, verdict=verdict, cause=fault)


def _finding(key: Key, aligned: Aligned, own: OwnRuns) -> Finding:
    misshapen = cause_of_shape(aligned)
    if misshapen:
        return _faulty(key, misshapen)
    numbers = own.of(key)
    if numbers is None:
        return Finding(key=key, verdict=Verdict.UNDECIDED, cause=Cause(kind=CauseKind.NO_NOISE))
    difference = Difference(
        phase=key.phase, held=aligned.held, axes=own.measured.axes, closeness=WithinNoise(numbers.noise)
    )
    verdict = numbers.verdict
    if verdict is not Verdict.ROUNDING and key.phase in ACTIVATIONS and axes_of_sum(difference):
        verdict = Verdict.ROUNDING  # parts of a sum: if nobody reduces them, what is computed from them differs
    wrong = verdict is Verdict.WRONG
    return Finding(
        key=key,
        verdict=verdict,
        cause=explain(difference) if wrong else None,
        ranks=tuple(difference.wrong) if wrong else (),
        elements=sum(one.expected.numel() for one in aligned.held.values()),
        numbers=numbers,
    )
