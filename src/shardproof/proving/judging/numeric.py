"""Numeric findings: what the numbers in the user's own dtypes say, beside an exact proof or instead of one.

An error smaller than rounding noise is not seen, so a finding of this kind is never a proof.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from shardproof.errors import CannotRunError
from shardproof.proving.cause import Cause, CauseKind
from shardproof.proving.findings import Finding, Verdict
from shardproof.proving.judging.beside import explain_beside
from shardproof.proving.judging.causes import axes_of_sum, explain
from shardproof.proving.judging.closeness import WithinNoise
from shardproof.proving.judging.difference import Difference
from shardproof.proving.judging.marks import mark_roots
from shardproof.proving.judging.outcomes import cause_of_shape, walk
from shardproof.proving.judging.places import locate
from shardproof.proving.judging.unreduced import Judged, keep_findings
from shardproof.proving.records import ACTIVATIONS, Key, Phase

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from shardproof.proving.findings import Numbers
    from shardproof.proving.judging.alignment import Aligned
    from shardproof.proving.judging.noise import OwnRuns
    from shardproof.proving.records import CollectiveCall

# Beside an exact proof ---------------------------------------------------------------------------------------------


def add_numbers(
    findings: Sequence[Finding],
    own: OwnRuns,
    *,
    agreed: Collection[Key],
    divergences: Sequence[Finding],
    lower: CollectiveCall | None = None,
) -> tuple[Finding, ...]:
    """Each finding with its numbers. What is proved and yet far outside the noise is WRONG: other code ran.

    So is what one side alone computes in these dtypes. Where the reference has no numbers, nothing is known of the
    candidate's, which is VACUOUS.

    Args:
        findings: of the exact runs.
        own: the runs in the user's own dtypes.
        agreed: what was equal in exact arithmetic, activations too: one of them may be the first that is far off.
        divergences: the findings that say where the sequences of collectives diverge.
        lower: the first collective in a lower dtype than the model's, if there is one.
    """
    numbered = {finding.key: replace(finding, numbers=own.of(finding.key)) for finding in findings}
    told = list(divergences)
    judged = {key: _judged_by_numbers(one, own, lower) for key, one in numbered.items()}
    if not divergences and judged == numbered:
        return tuple(numbered.values())
    any_wrong = any(one != numbered[key] for key, one in judged.items())
    for key in own.measured.ranks[0].tensors:
        if key in judged:
            told.append(judged.pop(key))
        elif any_wrong and key in agreed and key.phase in ACTIVATIONS:
            here = _judged_by_numbers(Finding(key=key, verdict=Verdict.PROVED, numbers=own.of(key)), own, lower)
            told += [] if here.verdict.ok else [here]
    marked = mark_roots([*told, *judged.values()])
    if not any(one.verdict is Verdict.WRONG for one in divergences):
        return marked
    return tuple(replace(one, root=one.root and not _only_by_numbers(one)) for one in marked)


def _judged_by_numbers(finding: Finding, own: OwnRuns, lower: CollectiveCall | None) -> Finding:
    """What is said of a finding once its numbers are known."""
    if finding.verdict is not Verdict.PROVED:
        return finding
    numbers = finding.numbers
    if numbers is not None and numbers.no_reference:
        cause = Cause(kind=CauseKind.NO_NUMBERS_IN_REFERENCE, dtype=own.dtype)
        return replace(finding, verdict=Verdict.VACUOUS, cause=cause)
    if numbers.far if numbers is not None else finding.key.phase not in ACTIVATIONS and own.lacks(finding.key):
        return replace(finding, verdict=Verdict.WRONG, cause=_cause_in_native_dtype(own.dtype, lower))
    return finding


def _cause_in_native_dtype(dtype: str, lower: CollectiveCall | None) -> Cause:
    if lower is None:
        return Cause(kind=CauseKind.ONLY_IN_NATIVE_DTYPE, dtype=dtype)
    return Cause(kind=CauseKind.LOWER_DTYPE_COLLECTIVE, dtype=dtype, native_collective=lower)


def _only_by_numbers(finding: Finding) -> bool:
    kinds = (CauseKind.ONLY_IN_NATIVE_DTYPE, CauseKind.LOWER_DTYPE_COLLECTIVE, CauseKind.NO_NUMBERS_IN_REFERENCE)
    return finding.cause is not None and finding.cause.kind in kinds


# Instead of one ----------------------------------------------------------------------------------------------------


def conclude_numerically(own: OwnRuns) -> tuple[Finding, ...]:
    """One finding for each tensor from its numbers alone; activations only where something that follows is not ok.

    Raises:
        CannotRunError: nothing was compared.
    """
    found = walk(
        own.measured,
        lambda key, aligned: _judge(key, aligned, own),
        lambda key, fault: Judged(finding=_faulty(key, fault)),
    )
    results = [one.finding for key, one in found.items() if key.phase not in ACTIVATIONS]
    if not results:
        raise CannotRunError("nothing was compared: the step computes no gradient, loss or update")
    if all(finding.verdict.ok for finding in results):
        return tuple(results)
    return mark_roots(keep_findings(found.values(), approximate=True))


def _faulty(key: Key, fault: Cause) -> Finding:
    verdict = Verdict.VACUOUS if fault.kind is CauseKind.NO_GRADIENT else Verdict.WRONG
    return Finding(key=key, verdict=verdict, cause=fault)


def _judge(key: Key, aligned: Aligned, own: OwnRuns) -> Judged:
    misshapen = cause_of_shape(aligned)
    if misshapen:
        return Judged(finding=_faulty(key, misshapen))
    numbers = own.of(key)
    if numbers is None:
        return Judged(finding=Finding(key=key, verdict=Verdict.UNDECIDED, cause=Cause(kind=CauseKind.NO_NOISE)))
    difference = Difference(
        phase=key.phase, held=aligned.held, axes=own.measured.axes, closeness=WithinNoise(numbers.noise)
    )
    if numbers.no_reference:
        cause = Cause(kind=CauseKind.NO_NUMBERS_IN_REFERENCE, dtype=own.dtype)
        return Judged(finding=Finding(key=key, verdict=Verdict.VACUOUS, cause=cause, numbers=numbers))
    verdict = numbers.verdict
    partial_over = axes_of_sum(difference) if verdict is not Verdict.ROUNDING and key.phase in ACTIVATIONS else ()
    if partial_over:
        verdict = Verdict.ROUNDING  # if nobody reduces them, what is computed from them differs
    wrong = verdict is Verdict.WRONG
    finding = Finding(
        key=key,
        verdict=verdict,
        cause=_cause(key, aligned, difference, own, numbers) if wrong else None,
        ranks=tuple(difference.wrong) if wrong else (),
        elements=sum(one.expected.numel() for one in aligned.held.values()),
        numbers=numbers,
    )
    return Judged(finding=finding, partial_over=partial_over)


def _cause_beside(key: Key, aligned: Aligned, own: OwnRuns, numbers: Numbers) -> Cause | None:
    # What was never clipped has the noise of the gradient before.
    before = own.of(Key(key.step, Phase.GRADIENT, key.name, key.call)) if key.phase is Phase.CLIPPED else numbers
    noise = numbers.noise if before is None else before.noise
    return explain_beside(own.measured, key, aligned, WithinNoise(noise))


def _cause(key: Key, aligned: Aligned, difference: Difference, own: OwnRuns, numbers: Numbers) -> Cause:
    """The relation that explains a difference, or else where it is."""
    found = _cause_beside(key, aligned, own, numbers) or explain(difference)
    largest = numbers.maxdiff if math.isfinite(numbers.maxdiff) else None
    return found or replace(locate(difference), largest=largest)
