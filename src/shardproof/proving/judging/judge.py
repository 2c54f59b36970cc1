"""The judge: from the records of both sides to findings. The one door of `judging/`; it runs nothing.

layout = find_candidate_layout(both)      where each rank's elements are in the full state
outcomes = compare_trials(both, layout)   what each run in exact arithmetic shows of each tensor
judge_exactly(both, layout, outcomes)     findings of a proof; `outcomes` may be of further runs too
judge_numerically(both, layout)           findings of `--numeric`, from numbers alone
judge_drawn(both, layout)                 findings of initial values and dropout masks
"""

from __future__ import annotations

from functools import cache, partial
from typing import TYPE_CHECKING

from shardproof.errors import CannotRunError
from shardproof.proving.axes import Axes
from shardproof.proving.findings import Verdict
from shardproof.proving.judging.alignment import Alignment, align
from shardproof.proving.judging.bounds import over_segments
from shardproof.proving.judging.collectives import conclude_divergences, find_divergences, find_lower_dtype
from shardproof.proving.judging.conclude import conclude, count_uncompared, find_zero_parts, judge_trials
from shardproof.proving.judging.coverage import judge_coverage
from shardproof.proving.judging.early_access import conclude_early_accesses
from shardproof.proving.judging.initial import find_faults, judge_initial
from shardproof.proving.judging.layout import find_layout, lay_out_whole, not_of_the_state
from shardproof.proving.judging.masks import judge_masks
from shardproof.proving.judging.noise import FLOAT64_ROUNDING_RATIO, align_own_runs, largest, measure_rounding
from shardproof.proving.judging.numeric import add_numbers, conclude_numerically
from shardproof.proving.judging.order import judge_order
from shardproof.proving.judging.outcomes import compare_exactly, drop_cancelled, own_buffers
from shardproof.proving.judging.recomputation import judge_recomputed_collectives, judge_recomputed_masks
from shardproof.proving.judging.splitting import describe_sharding, judge_splitting
from shardproof.proving.judging.ties import explain_untied
from shardproof.proving.records import ACTIVATIONS, Phase, Precision

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

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


def judge_exactly(both: BothSides, layout: Layout, outcomes: Sequence[Mapping[Key, Outcome]]) -> tuple[Finding, ...]:
    """The findings of all trials, in execution order, with the numbers of the user's own dtypes where these ran.

    Args:
        both: the first runs, those in ordinary arithmetic among them.
        layout: of the candidate.
        outcomes: of all trials, the first one first.

    Raises:
        CannotRunError: nothing was compared.
    """
    in_float64 = _align_float64(both, layout)
    rounding = _rounding(both, in_float64)
    findings = conclude(outcomes, rounding, _unreached(in_float64, rounding), own_training=both.own_training)
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
        align_own_runs(both, layout),
        agreed={key for key, outcome in outcomes[0].items() if outcome.equal and not outcome.partial},
        divergences=conclude_divergences(divergences, both.dtype),
        lower=find_lower_dtype([side.native[both.own_precision] for side in both.ranks], both.dtype),
    )
    return (*early, *numbered, *recomputed)


def needs_another_trial(both: BothSides, layout: Layout, outcomes: Sequence[Mapping[Key, Outcome]]) -> bool:
    """Whether a second trial may judge what the only one does not: elements that divide by zero, perhaps by chance."""
    if len(outcomes) > 1:
        return False
    results = {key: one for key, one in outcomes[0].items() if key.phase not in ACTIVATIONS}
    unjudged = [(key, one) for key, one in results.items() if judge_trials([one])[0] is Verdict.UNSUPPORTED]
    rounding = _rounding(both, _align_float64(both, layout)) if unjudged else None
    return rounding is not None and any(not count_uncompared([one], rounding(key)) for key, one in unjudged)


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
    """By name, the elements of a parameter that have a gradient in some step of the reference in float64."""
    found = dict(both.reference.reached)
    for key, recorded in both.reference.native[Precision.FLOAT64].tensors.items():
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
    own = {name for side in both.ranks for name in side.own_values if name not in side.depending}
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


def _align_float64(both: BothSides, layout: Layout) -> Alignment:
    """The runs in ordinary float64."""
    return Alignment(
        reference=both.reference.native[Precision.FLOAT64],
        ranks=[side.native[Precision.FLOAT64] for side in both.ranks],
        layout=layout,
        axes=both.axes,
        own_training=both.own_training,
    )


def _unreached(
    in_float64: Alignment, rounding: Callable[[Key], Rounding | None]
) -> Callable[[Key, frozenset[Part]], frozenset[Part]]:
    """Tells which parts, zero in every trial, nothing reached: those that are not rounding noise in float64."""

    @cache
    def scale(step: int, phase: Phase) -> float:
        tensors = in_float64.reference.tensors.items()
        return max((largest(one.values) for key, one in tensors if (key.step, key.phase) == (step, phase)), default=0.0)

    def unreached(key: Key, parts: frozenset[Part]) -> frozenset[Part]:
        aligned = in_float64.of(key)
        if aligned is None:
            return frozenset()
        found = rounding(key)
        noise = 0.0 if found is None else FLOAT64_ROUNDING_RATIO * found.noise
        return drop_cancelled(aligned.held, parts, max(noise, _NOISE_OF_SCALE * scale(key.step, key.phase)))

    return unreached


def find_left_out(
    both: BothSides, layout: Layout, outcomes: Sequence[Mapping[Key, Outcome]]
) -> frozenset[tuple[Key, Part]]:
    """The parts of gradients that no trial has reached, where the step selects by values: others may choose otherwise.

    An expert that no token was routed to is compared with nothing.
    """
    if not both.reference.selects:
        return frozenset()
    in_float64 = _align_float64(both, layout)
    unreached = _unreached(in_float64, _rounding(both, in_float64))
    found: set[tuple[Key, Part]] = set()
    for key in outcomes[0]:
        trials = [trial[key] for trial in outcomes if key in trial]
        zero = find_zero_parts(trials) if key.phase is Phase.GRADIENT else frozenset()
        found |= {(key, part) for part in (unreached(key, zero) if zero else zero)}
    return frozenset(found)


def _rounding(both: BothSides, in_float64: Alignment) -> Callable[[Key], Rounding | None]:
    """Measures a tensor's difference in float64 against the reference's noise."""
    float32 = Alignment(
        reference=in_float64.reference,
        ranks=[both.reference.native[Precision.FLOAT32]],
        axes=Axes(),
        layout=lay_out_whole(both.reference.parameters, 1),
    )
    return partial(measure_rounding, candidate=in_float64, float32=float32)
