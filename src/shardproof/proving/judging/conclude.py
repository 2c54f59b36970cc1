"""Conclusions of exact arithmetic: the outcomes of all trials -> one finding for each tensor, first causes marked."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING

import torch

from shardproof.errors import CannotRunError
from shardproof.proving.cause import Cause, CauseKind, Mend
from shardproof.proving.findings import Finding, Verdict
from shardproof.proving.judging.bounds import bound_of_trials, find_unbounded, list_trials
from shardproof.proving.judging.marks import mark_roots
from shardproof.proving.judging.unreduced import Judged, keep_findings
from shardproof.proving.records import ACTIVATIONS, Phase

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from shardproof.proving.cause import Part
    from shardproof.proving.findings import Rounding
    from shardproof.proving.judging.bounds import VoidTrials
    from shardproof.proving.judging.outcomes import Outcome
    from shardproof.proving.records import Key

# A right activation is no finding; a buffer may well be a table of constants.
NEVER_VACUOUS = ACTIVATIONS | {Phase.BUFFER}
# Of what a rank holds of a tensor, so much may be void in the only trial while the rest is judged.
_SMALL_PART = 1 / 32
# Of a constant by which a loss is off: of which numbers it may be the logarithm, and how near to it in float64.
_LARGEST_LOGARITHM, _SAME_CONSTANT = 64, 1e-11


def conclude(
    trials: Sequence[Mapping[Key, Outcome]],
    rounding: Callable[[Key], Rounding | None],
    unreached: Callable[[Key, frozenset[Part]], frozenset[Part]],
    *,
    own_training: bool = False,
) -> tuple[Finding, ...]:
    """One finding for each tensor from its outcomes in all trials, and from its runs in ordinary arithmetic.

    Args:
        trials: the outcomes of each.
        rounding: measures a tensor's difference in float64.
        unreached: of the parts of a tensor that are zero at every random point, those that nothing reached; what
            cancels is nearly zero in float64.
        own_training: the training is the user's own, in which a rank's module may compute its own share of a value.

    Raises:
        CannotRunError: nothing was compared.
    """
    if not trials[0]:
        raise CannotRunError("nothing was compared: the step computes no gradient, loss or update")
    judged: list[Judged] = []
    for key, outcomes, void in list_trials(trials):
        finding = _conclude_one(key, outcomes, void, rounding, unreached)
        if own_training and key.phase in ACTIVATIONS and not finding.verdict.ok and _is_scaled(outcomes):
            continue  # a rank's own scale (a local mean), which its training may make up for later
        unreduced = all(outcome.partial for outcome in outcomes)
        judged.append(Judged(finding=finding, partial_over=outcomes[0].partial_over if unreduced else ()))
    return mark_roots(drop_other_ways(keep_findings(judged)))


def _conclude_one(
    key: Key,
    outcomes: Sequence[Outcome],
    void: VoidTrials,
    rounding: Callable[[Key], Rounding | None],
    unreached: Callable[[Key, frozenset[Part]], frozenset[Part]],
) -> Finding:
    verdict, unjudged = judge_trials(outcomes)
    uncompared = count_uncompared(outcomes, rounding(key)) if verdict is Verdict.UNSUPPORTED else 0
    if uncompared:
        verdict, unjudged = Verdict.PROVED, None
    may_be_weak = verdict.ok and key.phase not in NEVER_VACUOUS
    weakness = find_weakness(outcomes, partial(unreached, key)) if may_be_weak else None
    if weakness:
        verdict = Verdict.VACUOUS
    native = None if verdict.ok or weakness else rounding(key)
    if verdict is Verdict.WRONG and native is not None and native.agrees and not (unjudged or _is_explained(outcomes)):
        verdict = Verdict.UNDECIDED
    worst = next((outcome for outcome in outcomes if not outcome.equal), outcomes[0])
    bound = bound_of_trials(outcomes, void.count)
    return Finding(
        key=key,
        verdict=verdict,
        cause=unjudged or weakness or _measured(worst.cause, native) or _place(worst, native),
        ranks=worst.ranks,
        differing=worst.differing,
        elements=worst.elements,
        probed=max(outcome.informative for outcome in outcomes),
        uncompared=uncompared,
        rounding=native,
        false_accept=bound if verdict is Verdict.PROVED and bound < 1 else None,
        unbounded=find_unbounded(outcomes, void) if verdict is Verdict.PROVED and bound >= 1 else None,
    )


def _measured(cause: Cause | None, native: Rounding | None) -> Cause | None:
    """A cause that is a constant with the number whose logarithm this is in float64, if it is one of a small number.

    Within 1e-11; that another constant is so near to the logarithm of one of 63 numbers is a matter of 1e-9. Where
    float64 agrees there is no constant: exact arithmetic does not promise the identity.
    """
    if cause is None or cause.kind is not CauseKind.OFF_BY_CONSTANT or native is None:
        return cause
    if native.agrees:
        return None
    near = [n for n in range(2, _LARGEST_LOGARITHM + 1) if abs(math.log(n) - native.maxdiff) < _SAME_CONSTANT]
    return replace(cause, factor=Fraction(near[0]), mend=Mend.SUM_ONCE) if near else cause


def _place(outcome: Outcome, native: Rounding | None) -> Cause | None:
    """Where an outcome without a known relation differs, and by how much in float64."""
    if outcome.place is None or native is None or not math.isfinite(native.maxdiff):
        return outcome.place
    return replace(outcome.place, largest=native.maxdiff)


def judge_trials(outcomes: Sequence[Outcome]) -> tuple[Verdict, Cause | None]:
    """What all trials of one tensor show together, and the cause if it is that no trial has judged some element.

    Only elements that are not void count, for or against. An element that is void by chance is judged in another trial.
    One that is void in every trial, two or more, on one side alone is NaN or infinite on that side alone.
    """
    if not all(outcome.equal for outcome in outcomes):
        return Verdict.WRONG, None
    void = [outcome.void for outcome in outcomes]
    always = {rank: [trial[rank] for trial in void] for rank in void[0] if all(rank in trial for trial in void)}
    here = [rank for rank, trials in always.items() if _in_all([one.actual & ~one.expected for one in trials])]
    there = [rank for rank, trials in always.items() if _in_all([one.expected & ~one.actual for one in trials])]
    if len(outcomes) > 1 and (here or there):
        kind = CauseKind.NO_NUMBER_HERE if here else CauseKind.NO_NUMBER_IN_REFERENCE
        return Verdict.WRONG, Cause(kind=kind, ranks=tuple(here or there))
    if any(_in_all([one.either for one in trials]) for trials in always.values()):
        return Verdict.UNSUPPORTED, Cause(kind=CauseKind.DIVIDES_BY_ZERO)
    return Verdict.PROVED, None


def count_uncompared(outcomes: Sequence[Outcome], in_float64: Rounding | None) -> int:
    """How many elements are void in the only trial, if it may be by chance and they are a small part of the tensor.

    By chance a residue is 0 once in as many as the prime, so an element may be void in one trial; in two it is so by
    its formula. Then it is NaN or infinite in float64 too, or far from the reference.

    Args:
        outcomes: of all trials.
        in_float64: the tensor's difference there.

    Returns:
        0 where the void elements are too many, or may be void in every trial.
    """
    if len(outcomes) > 1 or in_float64 is None or not in_float64.agrees:
        return 0
    void = [one.either for one in outcomes[0].void.values()]
    small = all(int(mask.sum()) <= mask.numel() * _SMALL_PART for mask in void)
    return sum(int(mask.sum()) for mask in void) if small else 0


def _in_all(masks: Sequence[Tensor]) -> bool:
    """Whether some element is in all of the masks."""
    return bool(torch.stack(list(masks)).all(0).any())


def find_weakness(outcomes: Sequence[Outcome], unreached: Callable[[frozenset[Part]], frozenset[Part]]) -> Cause | None:
    """Why agreement says nothing of this tensor, or of a part of it; None if it does say something.

    What is zero at every random point and rounding noise in float64 is zero as a function: a bias that softmax ignores.
    What is zero in float64 too was never reached; nor was what float64 alone has reached, by another routing.
    """
    cause = outcomes[0].cause
    if cause is not None and cause.kind is CauseKind.NO_GRADIENT:
        return cause
    if outcomes[0].constant:
        return Cause(kind=CauseKind.CONSTANT)
    zero = find_zero_parts(outcomes)
    unseen = unreached(zero) if zero else zero
    if not unseen:
        return None
    parts = sorted(unseen, key=lambda part: (part.index is not None, part.rank, part.index or 0))
    return Cause(kind=CauseKind.NEVER_REACHED, parts=tuple(parts))


def find_zero_parts(outcomes: Sequence[Outcome]) -> frozenset[Part]:
    """The parts of a tensor that are zero in every trial."""
    return frozenset.intersection(*(outcome.blind for outcome in outcomes))


def first_cause(outcomes: Sequence[Outcome]) -> Cause | None:
    """The cause that the first trial with one names: a relation that holds to the last digit is no rounding."""
    return next((outcome.cause for outcome in outcomes if outcome.cause), None)


def _is_explained(outcomes: Sequence[Outcome]) -> bool:
    """A relation holds that rounding cannot make. Zeros in part may be what is only nearly zero in float64.

    A loss that is off although all gradients are right may be right by an identity that exact arithmetic does not have.
    """
    cause = first_cause(outcomes)
    return cause is not None and cause.kind not in (CauseKind.ZERO_IN_PART, CauseKind.OFF_BY_CONSTANT)


def _is_scaled(outcomes: Sequence[Outcome]) -> bool:
    cause = first_cause(outcomes)
    return cause is not None and cause.kind is CauseKind.SCALED


def _agrees(finding: Finding) -> bool:
    """Whether a tensor agrees in float64: then it is not computed another way there."""
    return finding.rounding is not None and finding.rounding.agrees


def drop_other_ways(findings: Sequence[Finding]) -> list[Finding]:
    """The findings without activations that differ where nothing computed from them does: work done another way.

    A candidate may shift the operand of a softmax, or apply a scale later. Loss, gradients and updates decide.
    """
    verdicts = {finding.verdict for finding in findings if finding.key.phase not in ACTIVATIONS}
    if all(verdict.ok for verdict in verdicts):
        return [finding for finding in findings if finding.key.phase not in ACTIVATIONS]
    if all(verdict.ok or verdict is Verdict.UNDECIDED for verdict in verdicts):
        return [
            finding
            for finding in findings
            if finding.key.phase not in ACTIVATIONS or finding.verdict is not Verdict.WRONG or _agrees(finding)
        ]
    return list(findings)
