"""The judge: from the records of both sides to findings. The one door of `judging/`; it runs nothing.

layout = find_candidate_layout(both)      where each rank's elements are in the full state
outcomes = compare_trials(both, layout)   what each run in exact arithmetic shows of each tensor
needs_float64(outcomes)                   whether runs in float64 have to tell more of some tensor
measure_in_float64(both, layout, outcomes)   what these tell; they are not needed any more
settle_numbers(both, layout)              what the user's own dtypes tell of tensors of parameters
judge_exactly(both, layout, outcomes, ...)   findings of a proof; `outcomes` may be of further runs too
judge_numerically(both, layout)           findings of `--numeric`, from numbers alone
judge_drawn(both, layout)                 findings of initial values and dropout masks
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

from shardproof.errors import CannotRunError
from shardproof.proving.deviation import largest
from shardproof.proving.findings import Verdict
from shardproof.proving.judging.alignment import Alignment, align
from shardproof.proving.judging.bounds import over_segments
from shardproof.proving.judging.collectives import conclude_divergences, find_divergences, find_lower_dtype
from shardproof.proving.judging.conclude import NEVER_VACUOUS, conclude, count_uncompared, find_zero_parts, judge_trials
from shardproof.proving.judging.coverage import judge_coverage
from shardproof.proving.judging.early_access import conclude_early_accesses
from shardproof.proving.judging.initial import find_faults, judge_initial
from shardproof.proving.judging.layout import find_layout, not_of_the_state
from shardproof.proving.judging.masks import judge_masks
from shardproof.proving.judging.noise import (
    FLOAT64_ROUNDING_RATIO,
    Settled,
    align_own_runs,
    measure_rounding,
    settle_parameters,
)
from shardproof.proving.judging.numeric import add_numbers, conclude_numerically
from shardproof.proving.judging.order import judge_order
from shardproof.proving.judging.outcomes import compare_exactly, drop_cancelled, own_buffers
from shardproof.proving.judging.recomputation import judge_recomputed_collectives, judge_recomputed_masks
from shardproof.proving.judging.splitting import describe_sharding, judge_splitting
from shardproof.proving.judging.ties import explain_untied
from shardproof.proving.records import ACTIVATIONS, Phase, Precision

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

    from shardproof.exact.algebra.number_branches import NumberBranch
    from shardproof.exact.algebra.reference_constants import TakenConstant
    from shardproof.proving.cause import Part
    from shardproof.proving.findings import Finding, Rounding, Sharding
    from shardproof.proving.judging.layout import Layout
    from shardproof.proving.judging.outcomes import Outcome
    from shardproof.proving.records import BothSides, Key, Records, SideRecord

# Of the largest number of its kind in a step, in float64: what is smaller may be what rounding leaves of zero.
_NOISE_OF_SCALE = 1e-12


def find_candidate_layout(both: BothSides) -> Layout:
    """Where each rank's elements are in the full state.

    Raises:
        CannotRunError: the candidate did not start from the full state.
    """
    depending = sorted({name for side in both.ranks for name in side.depending})
    if depending:
        raise CannotRunError(not_of_the_state(depending[0]))
    held: dict[str, dict[int, Tensor]] = {}
    for rank, side in enumerate(both.ranks):
        for name, values in side.parameters.items():  # stages of a pipeline have parameters of their own
            held.setdefault(name, {})[rank] = values
    return find_layout(both.reference.parameters, held)


def compare_trials(both: BothSides, layout: Layout) -> list[dict[Key, Outcome]]:
    """The outcomes of each run in exact arithmetic, with the chance of all segments up to each tensor."""
    return [
        over_segments(compare_exactly(align_trial(both, layout, trial), prime), both.cuts, fresh=both.fresh)
        for trial, prime in enumerate(both.primes)
    ]


def align_trial(both: BothSides, layout: Layout, trial: int) -> Alignment:
    """Both sides of one run in exact arithmetic."""
    return align(both, layout, lambda side: side.trials[trial])


@dataclass(frozen=True, slots=True, kw_only=True)
class InFloat64:
    """What runs in float64 tell of the tensors of which the trials do not tell all.

    Attributes:
        roundings: the difference on the ranks against the reference's noise; None where it cannot be measured.
        unreached: parts that are zero at every random point, and that nothing reached.
    """

    roundings: Mapping[Key, Rounding | None] = field(default_factory=dict)
    unreached: Mapping[Key, frozenset[Part]] = field(default_factory=dict)

    def covers(self, outcomes: Sequence[Mapping[Key, Outcome]]) -> bool:
        """Whether nothing else is to be told of these trials."""
        return all(key in self.roundings for key, _ in _list_open(outcomes))

    def unreached_of(self, key: Key, parts: frozenset[Part]) -> frozenset[Part]:
        """Of some parts of a tensor, those that nothing reached."""
        return self.unreached[key] & parts


def judge_exactly(
    both: BothSides,
    layout: Layout,
    outcomes: Sequence[Mapping[Key, Outcome]],
    in_float64: InFloat64,
    settled: Settled | None = None,
) -> tuple[Finding, ...]:
    """The findings of all trials, in execution order, with the numbers of the user's own dtypes where these ran.

    Args:
        both: the first runs, those in ordinary arithmetic among them.
        layout: of the candidate.
        outcomes: of all trials, the first one first.
        in_float64: where `needs_float64`.
        settled: where the reference's tensors of parameters are not in `both` any more.

    Raises:
        CannotRunError: nothing was compared.
    """
    rounding, unreached = in_float64.roundings.__getitem__, in_float64.unreached_of
    findings = conclude(outcomes, rounding, unreached, own_training=both.own_training)
    recomputed = judge_recomputed_collectives([side.trials[0] for side in both.ranks])
    early = _conclude_early_accesses(both)
    findings = explain_untied(findings, layout)
    if both.reference.failed:
        return (*early, *findings, *recomputed)
    divergences = find_divergences(
        [side.trials[0] for side in both.ranks], [side.native[both.own_precision] for side in both.ranks]
    )
    numbered = add_numbers(
        findings,
        align_own_runs(both, layout, settled),
        agreed={key for key, outcome in outcomes[0].items() if outcome.equal and not outcome.partial},
        divergences=conclude_divergences(divergences, both.dtype),
        lower=find_lower_dtype([side.native[both.own_precision] for side in both.ranks], both.dtype),
    )
    return (*early, *numbered, *recomputed)


def needs_float64(outcomes: Sequence[Mapping[Key, Outcome]]) -> bool:
    """Whether runs in float64 have to tell more of some tensor."""
    return any(True for _ in _list_open(outcomes))


def _list_open(outcomes: Sequence[Mapping[Key, Outcome]]) -> Iterator[tuple[Key, frozenset[Part]]]:
    """The tensors that differ, or are void or zero in part in every trial, with the parts that are zero."""
    for key in outcomes[0]:
        of_trials = [trial[key] for trial in outcomes if key in trial]
        zero = frozenset() if key.phase in NEVER_VACUOUS else find_zero_parts(of_trials)
        if zero or judge_trials(of_trials)[0] is not Verdict.PROVED:
            yield key, zero


def measure_in_float64(both: BothSides, layout: Layout, outcomes: Sequence[Mapping[Key, Outcome]]) -> InFloat64:
    """What the runs in float64 tell of the tensors of which the trials do not tell all.

    Args:
        both: those runs.
        layout: of the candidate.
        outcomes: of the trials so far.
    """
    in_float64 = align(both, layout, lambda side: side.native[Precision.FLOAT64])
    float32 = both.reference.native[Precision.FLOAT32].deviations

    @cache
    def scale(step: int, phase: Phase) -> float:
        tensors = in_float64.reference.tensors.items()
        return max((largest(one.values) for key, one in tensors if (key.step, key.phase) == (step, phase)), default=0.0)

    def find_unreached(key: Key, zero: frozenset[Part], rounding: Rounding | None) -> frozenset[Part]:
        aligned = in_float64.of(key) if zero else None
        if aligned is None:
            return frozenset()
        noise = 0.0 if rounding is None else FLOAT64_ROUNDING_RATIO * rounding.noise
        return drop_cancelled(aligned.held, zero, max(noise, _NOISE_OF_SCALE * scale(key.step, key.phase)))

    zero = dict(_list_open(outcomes))
    roundings = {key: measure_rounding(key, in_float64, float32) for key in zero}
    unreached = {key: find_unreached(key, parts, roundings[key]) for key, parts in zero.items()}
    return InFloat64(roundings=roundings, unreached=unreached)


def needs_another_trial(in_float64: InFloat64, outcomes: Sequence[Mapping[Key, Outcome]]) -> bool:
    """Whether a second trial may judge what the only one does not: elements that divide by zero, perhaps by chance."""
    if len(outcomes) > 1:
        return False
    results = {key: one for key, one in outcomes[0].items() if key.phase not in ACTIVATIONS}
    unjudged = [(key, one) for key, one in results.items() if judge_trials([one])[0] is Verdict.UNSUPPORTED]
    return any(not count_uncompared([one], in_float64.roundings[key]) for key, one in unjudged)


def settle_numbers(both: BothSides, layout: Layout) -> Settled:
    """What the runs in the user's own dtypes tell of tensors of parameters; nothing where one device cannot run so."""
    return Settled() if both.reference.failed else settle_parameters(both, layout)


def judge_numerically(both: BothSides, layout: Layout) -> tuple[Finding, ...]:
    """The findings of the numbers in the user's own dtypes alone.

    Raises:
        CannotRunError: one device cannot run the step in these dtypes, or nothing was compared.
    """
    if both.reference.failed:
        raise CannotRunError(f"the step does not run in {both.dtype} on one device: {both.reference.failed}")
    findings = explain_untied(conclude_numerically(align_own_runs(both, layout)), layout)
    return (*_conclude_early_accesses(both), *findings)


def judge_drawn(both: BothSides, layout: Layout) -> tuple[tuple[Finding, ...], tuple[Finding, ...]]:
    """The findings of the initial values, which belong first, and of the dropout masks, which belong last.

    Of the initial values of the user's own training, which is given its values, those are judged that it fills itself.
    """
    reached = _reached_elements(both)
    initial = judge_coverage(layout, both.axes, _frozen_on(both), reached)
    told = {finding.key for finding in initial}
    initial += tuple(one for one in judge_order(layout, both.axes, reached) if one.key not in told)
    started = _initial_of_ranks(both, layout)
    if started:
        told = {finding.key for finding in initial}
        others = judge_initial(both.reference.initial, started, layout, _by_dtensor(both))
        initial += tuple(one for one in others if one.key not in told and not (told and one.verdict is Verdict.PROVED))
    drawn = [side.masks for side in both.ranks]
    masks = judge_masks(both.reference.masks, drawn, both.axes)
    return initial, (*masks, *judge_recomputed_masks(drawn))


def _initial_of_ranks(both: BothSides, layout: Layout) -> list[dict[str, Tensor]]:
    """By rank, what each parameter starts with; what a rank takes as it is given is what one device starts with."""
    names = dict.fromkeys(name for side in both.ranks for name in side.initial)
    if not names:
        return []
    whole = layout.state.flatten(both.reference.initial).double()
    return [
        {
            name: side.initial[name] if name in side.initial else layout.take(whole, name, rank)
            for name in names
            if rank in layout.element_index[name]
        }
        for rank, side in enumerate(both.ranks)
    ]


def _by_dtensor(both: BothSides) -> set[str]:
    return {name for side in both.ranks for name in side.drawn_by_dtensor}


def _reached_elements(both: BothSides) -> dict[str, Tensor]:
    """By name, the elements of a parameter that have a gradient in some step of the reference without rounding."""
    found = dict(both.reference.reached)
    native = both.reference.native
    for key, recorded in (native.get(Precision.ROUNDED) or native[Precision.FLOAT64]).tensors.items():
        if key.phase is Phase.GRADIENT:
            seen = recorded.values != 0
            found[key.name] = found[key.name] | seen if key.name in found else seen
    return found


def judge_sharding(both: BothSides, layout: Layout) -> tuple[Sharding, tuple[Finding, ...]]:
    """What the candidate splits; findings where it splits nothing."""
    sharding = describe_sharding(
        layout, both.axes, _first_runs(both.ranks), both.ranks[0].unmatched, own_training=both.own_training
    )
    return sharding, judge_splitting(sharding, both.axes)


def judge_without_layout(both: BothSides) -> tuple[Finding, ...]:
    """The findings of a sharding that fills plain shards itself: they start alike, or spread otherwise.

    Nothing else can be told of it.
    """
    if not all(side.initial for side in both.ranks):
        return ()
    names = [name for name in both.ranks[0].initial if all(name in side.initial for side in both.ranks)]
    own = {name for side in both.ranks for name in side.told.filled if name not in side.depending}
    return find_faults(both.reference.initial, [side.initial for side in both.ranks], names, own, _by_dtensor(both))


def list_own_buffers(both: BothSides) -> tuple[str, ...]:
    """The names of the buffers that only the candidate has."""
    reference, *ranks = _first_runs([both.reference, *both.ranks])
    return own_buffers(reference, ranks)


def list_unwatched_states(both: BothSides) -> tuple[str, ...]:
    """The optimizer states of the ranks that belong to parameters of no watched model."""
    return tuple(sorted({name for records in _first_runs(both.ranks) for name in records.unwatched_states}))


def _first_runs(sides: Sequence[SideRecord]) -> list[Records]:
    return [next(iter([*side.trials, *side.native.values()])) for side in sides]


def list_branches(both: BothSides) -> tuple[NumberBranch, ...]:
    """How the ranks' comparisons of numbers that they read were decided, by line."""
    return tuple(sorted({one for side in both.ranks for one in side.branches}))


def list_taken_constants(both: BothSides) -> tuple[TakenConstant, ...]:
    """The constants of the ranks that were taken for one device's."""
    found = {one for side in both.ranks for one in side.taken_constants}
    return tuple(sorted(found, key=lambda one: (one.given, one.taken)))


def _frozen_on(both: BothSides) -> frozenset[tuple[int, str]]:
    """Rank and name of the parameters that do not train there in the first step."""
    return frozenset(
        (rank, key.name)
        for rank, records in enumerate(_first_runs(both.ranks))
        for key in records.frozen
        if key.step == 0 and key.phase is Phase.GRADIENT
    )


def _conclude_early_accesses(both: BothSides) -> tuple[Finding, ...]:
    """The findings of asynchronous calls of all runs."""
    exact = [[side.trials[trial] for side in both.ranks] for trial in range(len(both.primes))]
    native = [[side.native[precision] for side in both.ranks] for precision in both.ranks[0].native]
    return conclude_early_accesses([*exact, *native])


def find_left_out(
    both: BothSides, in_float64: InFloat64, outcomes: Sequence[Mapping[Key, Outcome]]
) -> frozenset[tuple[Key, Part]]:
    """The parts of gradients that no trial has reached, where the step selects by values: others may choose otherwise.

    An expert that no token was routed to is compared with nothing.
    """
    if not both.reference.selects:
        return frozenset()
    found: set[tuple[Key, Part]] = set()
    for key in outcomes[0]:
        trials = [trial[key] for trial in outcomes if key in trial]
        zero = find_zero_parts(trials) if key.phase is Phase.GRADIENT else frozenset()
        found |= {(key, part) for part in (in_float64.unreached_of(key, zero) if zero else zero)}
    return frozenset(found)
