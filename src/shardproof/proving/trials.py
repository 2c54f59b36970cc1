"""Trials: the random points at which both sides are compared; in segments after the first, more of them on demand."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from shardproof.errors import CannotRunError
from shardproof.proving.judging.bounds import choose_cuts, count_missing_trials
from shardproof.proving.judging.judge import align_trial, compare_trials, find_left_out, needs_another_trial
from shardproof.proving.judging.one_sided import Choices
from shardproof.proving.running.batch import require_same_batch
from shardproof.proving.running.both_sides import Runner
from shardproof.proving.running.freed_memory import free_cycles
from shardproof.worlds.forked_calls import call_side_by_side

if TYPE_CHECKING:
    from collections.abc import Callable

    from shardproof.proving.judging.judge import InFloat64
    from shardproof.proving.judging.layout import Layout
    from shardproof.proving.judging.outcomes import Outcome
    from shardproof.proving.records import BothSides, Cuts, Key
    from shardproof.proving.running.request import RunRequest
    from shardproof.proving.running.target import Reload

# Further trials, where what is selected by values leaves something out; and how many of them may change nothing of the
# experts that no token was routed to.
_MOST_FOR_CHOICES, _MOST_IN_VAIN = 8, 3


@dataclass(slots=True, kw_only=True)
class Trials:
    """The trials of one proof. The first is run; others are taken where they are asked for.

    Attributes:
        runner: runs both sides.
        request: of a trial; its seeds are those of all trials that were taken.
        layout: of the candidate.
        tell: says what is run next.
        cuts: the activations at which further trials are cut; None: they are not.
        outcomes: of each trial.
        choices: of all trials, which of two operands was chosen.
    """

    runner: Runner
    request: RunRequest
    layout: Layout
    tell: Callable[[str], None]
    cuts: Cuts | None
    outcomes: list[dict[Key, Outcome]]
    choices: Choices

    @classmethod
    def after_first(
        cls,
        runner: Runner,
        request: RunRequest,
        first: BothSides,
        layout: Layout,
        tell: Callable[[str], None],
        *,
        alone: bool,
    ) -> Trials:
        """The first trial alone, compared: nothing of its tensors is needed any more.

        Further ones are taken in segments, if this one is equal everywhere.

        Args:
            runner: runs both sides.
            request: of the first trial.
            first: its runs.
            layout: of the candidate.
            tell: says what is run next.
            alone: no further ones are wanted, but where this one leaves something open.
        """
        outcomes, choices = compare_trials(first, layout), Choices()
        choices.add(first)
        void = any(outcome.void for outcome in outcomes[0].values())
        further = not alone or void or first.reference.selects or bool(choices.one_sided())
        cut = further and request.fresh and all(outcome.equal for outcome in outcomes[0].values())
        cuts = choose_cuts(align_trial(first, layout, 0), outcomes[0]) if cut else None
        return cls(
            runner=runner,
            request=replace(request, traced=False),
            layout=layout,
            tell=tell,
            cuts=cuts,
            outcomes=outcomes,
            choices=choices,
        )

    def take(self, count: int, reason: str = "") -> None:
        """Take further trials, each with the next seed."""
        if not count:
            return
        jobs = min(self.runner.jobs, count)
        more = f"{count} more trial{'s' * (count != 1)}" + f" in {jobs} processes" * (jobs > 1)
        self.tell(f"{more} {reason}" if reason else more)
        last = self.request.seeds[-1]
        seeds = tuple(range(last + 1, last + 1 + count))
        choices, found = _judge(self.runner, replace(self.request, seeds=seeds), self.cuts, self.layout)
        self.outcomes.extend(found)
        self.choices.add_others(choices)
        self.request = replace(self.request, seeds=(*self.request.seeds, *seeds))

    def take_for_bound(self, wanted: float) -> None:
        """Take trials until every derived bound is at most this."""
        self.take(count_missing_trials(self.outcomes, wanted), f"for a bound of {wanted}")

    def take_for_unjudged(self, both: BothSides, in_float64: InFloat64) -> None:
        """Take trials for what those before do not judge: void elements, experts, operands that nothing has chosen.

        Args:
            both: of the first trial.
            in_float64: where it is needed for the trials so far.
        """
        outcomes = self.outcomes
        if needs_another_trial(in_float64, outcomes):
            self.take(1, "as elements divide by zero, perhaps by chance")
        left, in_vain = find_left_out(both, in_float64, outcomes), 0
        for _ in range(_MOST_FOR_CHOICES):
            experts, one_sided = bool(left) and in_vain < _MOST_IN_VAIN, self.choices.one_sided()
            if not experts and not one_sided:
                break
            place = "" if experts else f" at {one_sided[0].line}"
            reason = "no token was routed to some expert" if experts else "one of two operands alone was chosen"
            self.take(1, f"as {reason}{place}")
            before, left = left, find_left_out(both, in_float64, outcomes)
            in_vain = in_vain + 1 if left == before else 0


def _judge(
    runner: Runner, request: RunRequest, cuts: Cuts | None, layout: Layout
) -> tuple[Choices, list[dict[Key, Outcome]]]:
    """Further trials, their choices and outcomes.

    Two ways of writing a function may differ at a cut although the whole does not, and what is no residue but a sign
    (a mask of zeros and ones) cannot be cut. Then the trials are taken without cuts.
    """
    if cuts is not None:
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
    """One trial after the other, each compared before the next is in memory."""
    choices, outcomes = Choices(), []
    for seed in request.seeds:
        both = runner.run(replace(request, seeds=(seed,)))
        choices.add(both)
        outcomes += compare_trials(both, layout)
        del both
        free_cycles()
    return choices, outcomes
