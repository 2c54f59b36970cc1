"""Conclusions: from the outcomes of all trials, one finding a tensor, first causes marked."""

from __future__ import annotations

from math import ceil, log, prod
from typing import TYPE_CHECKING

from shardproof.errors import CannotRunError
from shardproof.proving.findings import Finding, Verdict
from shardproof.proving.judging.marks import mark_roots
from shardproof.proving.records import ACTIVATIONS, Phase

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from shardproof.proving.judging.outcomes import Outcome
    from shardproof.proving.judging.rounding import Rounding
    from shardproof.proving.records import Key


def conclude(
    trials: Sequence[Mapping[Key, Outcome]],
    rounding: Callable[[Key], Rounding | None],
    blind: Callable[[Key], frozenset[str]],
    *,
    own_training: bool = False,
) -> tuple[Finding, ...]:
    """One finding a tensor from its outcomes in all trials, and from its ordinary runs.

    Args:
        trials: the outcomes of each.
        rounding: measures a tensor that differs in float64.
        blind: the parts of a tensor that are zero in float64, not by cancellation but because nothing reached them.
        own_training: a rank's module may compute its own share of what the reference's does.

    Raises:
        CannotRunError: nothing was compared.
    """
    if not trials[0]:
        raise CannotRunError("nothing was compared: the step computes no gradient, loss or update")
    findings: list[Finding] = []
    pending: Finding | None = None  # the first of the partial activations that nothing has been seen to reduce yet
    for key in trials[0]:
        outcomes = [trial[key] for trial in trials if key in trial]
        verdict = judge_trials(outcomes)
        weak = "" if not verdict.ok or key.phase in _NEVER_VACUOUS else find_weakness(outcomes, blind(key))
        verdict = Verdict.VACUOUS if weak else verdict
        native = None if verdict.ok or weak else rounding(key)
        if verdict is Verdict.WRONG and native is not None and native.agrees and not worst_cause(outcomes):
            verdict = Verdict.UNDECIDED
        if key.phase in ACTIVATIONS and verdict.ok:
            # Right activations are no findings; a wrong one is where the trouble starts.
            partial_here = all(outcome.partial for outcome in outcomes)
            pending = (pending or unreduced(key, outcomes[0])) if partial_here else None
            continue
        if own_training and key.phase in ACTIVATIONS and " times too " in worst_cause(outcomes):
            continue  # a rank's own scale (a local mean), which its training may make up for later
        if pending is not None and key.phase in ACTIVATIONS | {Phase.LOSS} and verdict is Verdict.WRONG:
            if all(finding.verdict.ok for finding in findings):
                findings.append(pending)
            pending = None
        worst = next((o for o in outcomes if not o.equal), outcomes[0])
        bound = prod(outcome.chance for outcome in outcomes)
        findings.append(
            Finding(
                key=key,
                verdict=verdict,
                cause=weak or worst.cause,
                ranks=worst.ranks,
                differing=worst.differing,
                elements=worst.elements,
                probed=max(outcome.informative for outcome in outcomes),
                rounding=native,
                false_accept=bound if verdict is Verdict.PROVED and bound < 1 else None,
            )
        )
    return mark_roots(drop_other_ways(findings))


def drop_other_ways(findings: Sequence[Finding]) -> list[Finding]:
    """The findings less activations that differ where nothing that is computed from them does: work done another way.

    A candidate may shift the operand of a softmax, or leave a scale for later. Loss, gradients and updates decide.
    """
    verdicts = {finding.verdict for finding in findings if finding.key.phase not in ACTIVATIONS}
    if all(verdict.ok for verdict in verdicts):
        return [finding for finding in findings if finding.key.phase not in ACTIVATIONS]
    if all(verdict.ok or verdict is Verdict.UNDECIDED for verdict in verdicts):
        return [
            finding
            for finding in findings
            if finding.key.phase not in ACTIVATIONS or finding.verdict is not Verdict.WRONG
        ]
    return list(findings)


def unreduced(key: Key, outcome: Outcome) -> Finding:
    """An activation that was partial on each rank, when what is computed from it turns out wrong."""
    return Finding(
        key=key,
        verdict=Verdict.WRONG,
        cause=f"ranks hold partial values whose sum{outcome.over} is right, and what is computed from them is wrong",
        elements=outcome.elements,
    )


def worst_cause(outcomes: Sequence[Outcome]) -> str:
    """The cause that a trial named, if one did: a relation that holds to the last digit is no rounding."""
    return next((outcome.cause for outcome in outcomes if outcome.cause), "")


def judge_trials(outcomes: Sequence[Outcome]) -> Verdict:
    """What all trials of one tensor show together. A void trial that differs says nothing; one that agrees counts."""
    telling = [outcome for outcome in outcomes if outcome.equal or not outcome.void]
    if not telling:
        return Verdict.UNSUPPORTED
    return Verdict.PROVED if all(outcome.equal for outcome in telling) else Verdict.WRONG


# A right activation is no finding; a buffer may well be a table of constants.
_NEVER_VACUOUS = ACTIVATIONS | {Phase.BUFFER}


def find_weakness(outcomes: Sequence[Outcome], blind: frozenset[str]) -> str:
    """Why agreement says nothing of this tensor, or of a part of it; empty if it does.

    What is zero at every random point and only nearly zero in float64 is zero as a function: a bias that softmax takes
    no notice of. What is zero in float64 too was never reached.
    """
    if outcomes[0].constant:
        return "the same numbers whatever the parameters and inputs are: a wrong way to them would not show"
    unseen = frozenset.intersection(blind, *(outcome.blind for outcome in outcomes))
    if not unseen:
        return ""
    told = ", ".join(sorted(unseen)[:4]) + (f" and {len(unseen) - 4} more" if len(unseen) > 4 else "")
    return f"zero in every run on {told}: nothing in the batch reaches it"


def count_missing_trials(trials: Sequence[Mapping[Key, Outcome]], wanted: float) -> int:
    """How many more trials bring every derived bound to `wanted`, if each is as telling as the last so far.

    None where something differs, for which no bound is of use.
    """
    missing = 0
    for key, last in trials[-1].items():
        if not last.equal:
            return 0
        bound = prod(trial[key].chance for trial in trials if key in trial)
        if bound > wanted and 0 < last.chance < 1:
            missing = max(missing, ceil(log(wanted / bound) / log(last.chance)))
    return min(missing, _MOST_TRIALS - len(trials))


# A bound that more trials than this would not bring down far enough stays as it is, and is reported.
_MOST_TRIALS = 64
