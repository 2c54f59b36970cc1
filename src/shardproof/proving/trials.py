"""Trials: the random points at which both sides are compared; in segments after the first, more of them on demand."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from shardproof.errors import CannotRunError
from shardproof.proving.judging.bounds import choose_cuts, count_missing_trials
from shardproof.proving.judging.judge import align_trial, compare_trials, find_left_out, needs_another_trial
from shardproof.proving.judging.one_sided import Choices
from shardproof.proving.running.batch import require_same_batch
from shardproof.proving.running.both_sides import Runner
from shardproof.worlds.forked_calls import call_side_by_side

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from shardproof.proving.judging.layout import Layout
    from shardproof.proving.judging.outcomes import Outcome
    from shardproof.proving.records import BothSides, Key
    from shardproof.proving.running.request import RunRequest
    from shardproof.proving.running.target import Reload

# Further trials, where what is selected by values leaves something out; and how many of them may change nothing of the
# experts that no token was routed to.
_MOST_FOR_CHOICES, _MOST_IN_VAIN = 8, 3


def take_trials(
    runner: Runner,
    request: RunRequest,
    first: BothSides,
    layout: Layout,
    wanted: float | None,
    tell: Callable[[str], None],
) -> tuple[RunRequest, list[dict[Key, Outcome]], Choices]:
    """The outcomes of all trials, the first of which has been run, and their choices; the request with all seeds."""
    outcomes, choices = compare_trials(first, layout), Choices()
    choices.add(first)

    def judge_again(seeds: tuple[int, ...]) -> None:
        further, found = _judge_again(runner, replace(request, seeds=seeds), first, outcomes[0], layout)
        outcomes.extend(found)
        choices.add_others(further)

    def take_further(count: int) -> None:
        nonlocal request
        last = request.seeds[-1]
        further = tuple(range(last + 1, last + 1 + count))
        judge_again(further)
        request = replace(request, seeds=(*request.seeds, *further))

    if len(request.seeds) > 1:
        more = len(request.seeds) - 1
        jobs = min(runner.jobs, more)
        tell(f"{_more(more)} in {jobs} processes" if jobs > 1 else _more(more))
        judge_again(request.seeds[1:])
    more = 0 if wanted is None else count_missing_trials(outcomes, wanted)
    reason = f"for a bound of {wanted}"
    if not more and needs_another_trial(first, layout, outcomes):
        more, reason = 1, "as elements divide by zero, perhaps by chance"
    if more:
        tell(f"{_more(more)} {reason}")
        take_further(more)
    left, in_vain = find_left_out(first, layout, outcomes), 0
    for _ in range(_MOST_FOR_CHOICES):
        experts, one_sided = bool(left) and in_vain < _MOST_IN_VAIN, choices.one_sided()
        if not experts and not one_sided:
            break
        place = "" if experts else f" at {one_sided[0].line}"
        reason = "no token was routed to some expert" if experts else "one of two operands alone was chosen"
        tell(f"1 more trial, as {reason}{place}")
        take_further(1)
        before, left = left, find_left_out(first, layout, outcomes)
        in_vain = in_vain + 1 if left == before else 0
    return request, outcomes, choices


def _more(count: int) -> str:
    return f"{count} more trial{'s' * (count != 1)}"


def _judge_again(
    runner: Runner, request: RunRequest, first: BothSides, outcomes: Mapping[Key, Outcome], layout: Layout
) -> tuple[Choices, list[dict[Key, Outcome]]]:
    """Further trials, their choices and outcomes: in segments, if the first one was equal everywhere.

    Two ways of writing a function may differ at a cut although the whole does not, and what is no residue but a sign
    (a mask of zeros and ones) cannot be cut. Then the trials are taken without cuts.
    """
    if request.fresh and all(outcome.equal for outcome in outcomes.values()):
        cuts = choose_cuts(align_trial(first, layout, 0), outcomes)
        with suppress(CannotRunError):
            choices, found = _take(runner, replace(request, cuts=cuts), layout)
            if not cuts or all(outcome.equal for trial in found for outcome in trial.values()):
                return choices, found
    return _take(runner, request, layout)


def _take(runner: Runner, request: RunRequest, layout: Layout) -> tuple[Choices, list[dict[Key, Outcome]]]:
    """The trials of a request, shared out among as many processes as the runner may start."""
    count = min(runner.jobs, len(request.seeds))
    if count == 1:
        return _run_and_compare(runner, request, layout)
    shares = [request.seeds[job::count] for job in range(count)]
    target = runner.reload or runner.target
    calls = [(target, runner.timeout, replace(request, seeds=seeds), layout) for seeds in shares]
    taken = call_side_by_side(_run_in_process, calls, purpose="trials")
    choices = Choices()
    by_seed: dict[int, dict[Key, Outcome]] = {}
    for seeds, (one, found) in zip(shares, taken, strict=True):
        choices.add_others(one)
        by_seed.update(zip(seeds, found, strict=True))
    return choices, [by_seed[seed] for seed in request.seeds]


def _run_in_process(
    reload: Reload, timeout: float, request: RunRequest, layout: Layout
) -> tuple[Choices, list[dict[Key, Outcome]]]:
    """In a process of its own, which makes its step itself."""
    target = reload()
    require_same_batch(target.step, request.batch)
    return _run_and_compare(Runner(target=target, spawn=False, timeout=timeout, reload=None), request, layout)


def _run_and_compare(runner: Runner, request: RunRequest, layout: Layout) -> tuple[Choices, list[dict[Key, Outcome]]]:
    both, choices = runner.run(request), Choices()
    choices.add(both)
    return choices, compare_trials(both, layout)
