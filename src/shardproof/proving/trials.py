"""Trials: the random points at which both sides are compared; in segments after the first, more of them on demand."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from shardproof.errors import CannotRunError
from shardproof.proving.judging.bounds import choose_cuts, count_missing_trials

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from shardproof.proving.judging.layout import Layout
    from shardproof.proving.judging.outcomes import Outcome
    from shardproof.proving.records import Key
    from shardproof.proving.running.both_sides import Round, Sides
    from shardproof.proving.running.request import Runs


def take_trials(
    sides: Sides, runs: Runs, first: Round, layout: Layout, wanted: float | None, tell: Callable[[str], None]
) -> tuple[Runs, list[dict[Key, Outcome]]]:
    """The outcomes of all trials, the first of which has been run; and the runs, as many as the bounds asked for."""
    outcomes = first.judge(layout)
    if len(runs.seeds) > 1:
        tell(_more(len(runs.seeds) - 1))
        outcomes += _judge_again(sides, replace(runs, seeds=runs.seeds[1:]), first, outcomes[0], layout)
    more = 0 if wanted is None else count_missing_trials(outcomes, wanted)
    if more:
        tell(f"{_more(more)} for a bound of {wanted}")
        last = runs.seeds[-1]
        further = tuple(range(last + 1, last + 1 + more))
        outcomes += _judge_again(sides, replace(runs, seeds=further), first, outcomes[0], layout)
        runs = replace(runs, seeds=(*runs.seeds, *further))
    return runs, outcomes


def _more(count: int) -> str:
    return f"{count} more trial{'s' * (count != 1)}"


def _judge_again(
    sides: Sides, runs: Runs, first: Round, outcomes: Mapping[Key, Outcome], layout: Layout
) -> list[dict[Key, Outcome]]:
    """The outcomes of further trials: in segments, if all was well in the first.

    Where two ways of writing a function meet only over a cut, segments part although the whole does not; and what is
    not a number but a sign (a mask of zeros and ones) cannot be cut. Then the trials are taken without.
    """
    if runs.fresh and all(outcome.equal for outcome in outcomes.values()):
        cuts = choose_cuts(first.reference.trials[0], outcomes)
        with suppress(CannotRunError):
            found = sides.run(replace(runs, cuts=cuts)).judge(layout)
            if not cuts or all(outcome.equal or outcome.void for trial in found for outcome in trial.values()):
                return found
    return sides.run(runs).judge(layout)
