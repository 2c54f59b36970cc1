"""Conclusions: from the outcomes of all trials, one finding a tensor, first causes marked."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from shardproof.errors import CannotRunError
from shardproof.proving.findings import Finding, Verdict
from shardproof.proving.records import ACTIVATIONS, Phase
from shardproof.proving.roots import mark_roots

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from shardproof.proving.judge import Outcome
    from shardproof.proving.records import Key
    from shardproof.proving.rounding import Rounding


def conclude(
    trials: Sequence[Mapping[Key, Outcome]], rounding: Callable[[Key], Rounding | None], *, own_training: bool = False
) -> tuple[Finding, ...]:
    """One finding a tensor from its outcomes in all trials, and from its rounding where they differ.

    In a training of the user's own, modules may split the work as they like: where loss, gradients and updates are
    right, an activation that differs is no finding.

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
        native = None if verdict.ok else rounding(key)
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
                cause=worst.cause,
                ranks=worst.ranks,
                differing=worst.differing,
                elements=worst.elements,
                rounding=native,
                false_accept=bound if verdict is Verdict.PROVED and bound < 1 else None,
            )
        )
    results = [finding for finding in findings if finding.key.phase not in ACTIVATIONS]
    if own_training and results and all(finding.verdict.ok for finding in results):
        return tuple(results)
    return mark_roots(findings)


def unreduced(key: Key, outcome: Outcome) -> Finding:
    """An activation that was partial on each rank, when what is computed from it turns out wrong."""
    return Finding(
        key=key,
        verdict=Verdict.WRONG,
        cause="ranks hold partial values whose sum is right, and what is computed from them is wrong",
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
    if not all(outcome.equal for outcome in telling):
        return Verdict.WRONG
    if not any(outcome.informative for outcome in telling):
        return Verdict.VACUOUS
    return Verdict.PROVED
