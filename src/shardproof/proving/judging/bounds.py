"""Bounds: the probability that a wrong tensor agrees by chance, over segments and trials.

A step in exact arithmetic is cut into segments, so that each has a bound of its own (docs/exact.md, theorem 3). Here:
where it may be cut, what a tensor's bound is then, and how many more trials a wanted bound needs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil, comb, log, prod
from typing import TYPE_CHECKING

import torch

from shardproof.exact import NoBound
from shardproof.proving.findings import Unbounded
from shardproof.proving.records import ACTIVATIONS, GRADIENT_OF, RENEWED, Key, Phase

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from torch import Tensor

    from shardproof.proving.judging.alignment import Alignment
    from shardproof.proving.judging.outcomes import Outcome
    from shardproof.proving.records import Cut, Cuts, Records

_PHASE_OF_GRADIENT = {gradient: phase for phase, gradient in GRADIENT_OF.items()}

# A bound that more trials than this would not bring down far enough stays as it is, and is reported.
_MOST_TRIALS = 64


def choose_cuts(uncut: Alignment, outcomes: Mapping[Key, Outcome]) -> Cuts:
    """The activations at which a step may be cut, and of each rank's part of them the numbers of its elements.

    In every step they and their gradients were compared, equal, not void, laid out alike, and no parts of a sum: each
    rank would add pads to its part. A scalar (the loss that a model returns) is no boundary between segments.

    Args:
        uncut: both sides of a run that was not cut.
        outcomes: of that run.
    """
    reference = uncut.reference
    found: dict[Cut, Mapping[int, Tensor]] = {}
    unfit: set[Cut] = set()
    for key, held in reference.tensors.items():
        if key.phase not in GRADIENT_OF or not held.values.ndim:
            continue
        cut, keys = _cut_of(key), list(_with_gradient(key, reference))
        layouts = [uncut.number_elements(one) for one in keys] if _all_right(keys, outcomes) else [None]
        first = found.setdefault(cut, layouts[0] or {})
        if not all(layout is not None and _same_layout(layout, first) for layout in layouts):
            unfit.add(cut)
    return {cut: _shared(numbers) for cut, numbers in found.items() if cut not in unfit}


def over_segments(outcomes: Mapping[Key, Outcome], cuts: Collection[Cut], *, fresh: bool) -> dict[Key, Outcome]:
    """The outcomes with the chance of the whole run up to each tensor, instead of that of its own segment.

    Where a segment before it has no derived bound, neither has the tensor, for that reason.

    Two programs that differ do so in some segment, so a tensor agrees by chance no more often than the worst of the
    segments before it and its own.

    Args:
        outcomes: in execution order.
        cuts: the activations that were cut.
        fresh: parameters and optimizer state started each step from fresh residues.
    """
    found = {}
    worst, unbounded = 0.0, None
    for key, outcome in outcomes.items():
        found[key] = replace(outcome, chance=max(outcome.chance, worst), unbounded=unbounded or outcome.unbounded)
        if fresh and _ends_a_segment(key, cuts):
            worst = max(worst, outcome.chance)
            unbounded = unbounded or outcome.unbounded
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class VoidTrials:
    """Trials that say nothing of some element that a tensor owes to: the element is void there.

    Attributes:
        count: how many, of the element that has most.
        at: the tensor whose element it is; None if there are none.
    """

    count: int = 0
    at: Key | None = None


def list_trials(
    trials: Sequence[Mapping[Key, Outcome]],
) -> Iterator[tuple[Key, list[Outcome], VoidTrials]]:
    """Each tensor of the first trial with its outcomes in all of them, and how many say nothing of some element.

    What is computed from a void element is void. But those of an update are drawn anew after it, on both sides alike,
    so that a wrong one is seen neither there nor in what follows.
    """
    before = VoidTrials()
    for key in trials[0]:
        outcomes = [trial[key] for trial in trials if key in trial]
        own = _worse(before, key, outcomes)
        yield key, outcomes, own
        if key.phase in RENEWED:
            before = own


def _worse(before: VoidTrials, key: Key, outcomes: Sequence[Outcome]) -> VoidTrials:
    masks: dict[tuple[int, torch.Size], list[Tensor]] = {}  # what an expert is given has another shape in each trial
    for outcome in outcomes:
        for rank, void in outcome.void.items():
            masks.setdefault((rank, void.actual.shape), []).append(void.either)
    count = max((int(torch.stack(one).sum(0).max()) for one in masks.values()), default=0)
    return before if count <= before.count else VoidTrials(count=count, at=key)


def bound_of_trials(outcomes: Sequence[Outcome], void: int = 0) -> float:
    """The probability that a wrong tensor agrees by chance in all trials, at most; 1 where none is derived.

    Which trials say nothing of an element may depend on the values: the bound holds for each way to choose as many
    trials among all (docs/exact.md, theorem 2).

    Args:
        outcomes: of all trials.
        void: how many of them say nothing of one element, at most.
    """
    telling = max(len(outcomes) - void, 0)
    largest = sorted((outcome.chance for outcome in outcomes), reverse=True)[:telling]
    return min(1.0, comb(len(outcomes), telling) * prod(largest))


def find_unbounded(outcomes: Sequence[Outcome], void: VoidTrials) -> Unbounded | None:
    """Why no bound is derived of a tensor in all trials; that of the last one, which is in segments if any is."""
    found = next((outcome.unbounded for outcome in reversed(outcomes) if outcome.unbounded), None)
    if found is None and void.at is not None and void.count >= len(outcomes):
        return Unbounded(reason=NoBound.VOID, at=void.at)
    return found


def count_missing_trials(trials: Sequence[Mapping[Key, Outcome]], wanted: float) -> int:
    """How many more trials bring every derived bound to `wanted`, if each has the chance of the last.

    0 where something differs: no bound is of use then.
    """
    missing = 0
    for _key, outcomes, void in list_trials(trials):
        if not outcomes[-1].equal:
            return 0
        bound, chance = bound_of_trials(outcomes, void.count), outcomes[-1].chance
        if bound > wanted and 0 < chance < 1:
            missing = max(missing, ceil(log(wanted / bound) / log(chance)))
    return min(missing, _MOST_TRIALS - len(trials))


def _cut_of(key: Key) -> Cut:
    return _PHASE_OF_GRADIENT.get(key.phase, key.phase), key.name, key.call


def _with_gradient(key: Key, reference: Records) -> Iterable[Key]:
    yield key
    if key.gradient in reference.tensors:
        yield key.gradient


def _same_layout(one: Mapping[int, Tensor], other: Mapping[int, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[rank], other[rank]) for rank in one)


def _shared(numbers: Mapping[int, Tensor]) -> Mapping[int, Tensor]:
    """One tensor for all ranks that hold the same elements."""
    kept: list[Tensor] = []
    found = {}
    for rank, one in numbers.items():
        same = next((other for other in kept if torch.equal(one, other)), None)
        found[rank] = one.contiguous() if same is None else same
        if same is None:
            kept.append(found[rank])
    return found


def _all_right(keys: Iterable[Key], outcomes: Mapping[Key, Outcome]) -> bool:
    found = [outcomes.get(key) for key in keys]
    return all(one is not None and one.equal and not one.partial and not one.void for one in found)


def _ends_a_segment(key: Key, cuts: Collection[Cut]) -> bool:
    if key.phase in RENEWED:
        return True
    return bool(cuts) and (
        key.phase in (Phase.GRADIENT, Phase.CLIPPED) or (key.phase in ACTIVATIONS and _cut_of(key) in cuts)
    )
