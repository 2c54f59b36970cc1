"""Bounds: the probability that a wrong tensor agrees by chance, over segments and trials.

A step in exact arithmetic is cut into segments, so that each has a bound of its own (docs/exact.md, theorem 3). Here:
where it may be cut, what a tensor's bound is then, and how many more trials a wanted bound needs.
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil, log, prod
from typing import TYPE_CHECKING

from shardproof.proving.records import ACTIVATIONS, GRADIENT_OF, Key, Phase

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from shardproof.proving.judging.outcomes import Outcome
    from shardproof.proving.records import Cut, Records

_PHASE_OF_GRADIENT = {gradient: phase for phase, gradient in GRADIENT_OF.items()}

# A bound that more trials than this would not bring down far enough stays as it is, and is reported.
_MOST_TRIALS = 64


def choose_cuts(reference: Records, outcomes: Mapping[Key, Outcome]) -> frozenset[Cut]:
    """The activations at which a step may be cut, after an uncut run.

    In every step they and their gradients were compared, equal, and no parts of a sum: a random function of the parts
    is not a part of the function of the sum. A scalar (the loss that a model returns) is no boundary between segments.
    """
    keys = [key for key, held in reference.tensors.items() if key.phase in GRADIENT_OF and held.values.ndim]
    unfit = {_cut_of(key) for key in keys if not _all_right(_with_gradient(key, reference), outcomes)}
    return frozenset(map(_cut_of, keys)) - unfit


def over_segments(outcomes: Mapping[Key, Outcome], cuts: frozenset[Cut], *, fresh: bool) -> dict[Key, Outcome]:
    """The outcomes with the chance of the whole run up to each tensor, instead of that of its own segment.

    Two programs that differ do so in some segment, so a tensor agrees by chance no more often than the worst of the
    segments before it and its own.

    Args:
        outcomes: in execution order.
        cuts: the activations that were cut.
        fresh: parameters and optimizer state started each step from fresh residues.
    """
    found = {}
    worst = 0.0
    for key, outcome in outcomes.items():
        found[key] = replace(outcome, chance=max(outcome.chance, worst))
        if fresh and _ends_a_segment(key, cuts):
            worst = max(worst, outcome.chance)
    return found


def count_missing_trials(trials: Sequence[Mapping[Key, Outcome]], wanted: float) -> int:
    """How many more trials bring every derived bound to `wanted`, if each has the chance that the last one had.

    0 where something differs: no bound is of use then.
    """
    missing = 0
    for key, last in trials[-1].items():
        if not last.equal:
            return 0
        bound = prod(trial[key].chance for trial in trials if key in trial)
        if bound > wanted and 0 < last.chance < 1:
            missing = max(missing, ceil(log(wanted / bound) / log(last.chance)))
    return min(missing, _MOST_TRIALS - len(trials))


def _cut_of(key: Key) -> Cut:
    return _PHASE_OF_GRADIENT.get(key.phase, key.phase), key.name, key.call


def _with_gradient(key: Key, reference: Records) -> Iterable[Key]:
    yield key
    gradient = Key(key.step, GRADIENT_OF[key.phase], key.name, key.call)
    if gradient in reference.tensors:
        yield gradient


def _all_right(keys: Iterable[Key], outcomes: Mapping[Key, Outcome]) -> bool:
    found = [outcomes.get(key) for key in keys]
    return all(one is not None and one.equal and not one.partial for one in found)


def _ends_a_segment(key: Key, cuts: frozenset[Cut]) -> bool:
    if key.phase in (Phase.UPDATE, Phase.STATE):
        return True
    return bool(cuts) and (
        key.phase in (Phase.GRADIENT, Phase.CLIPPED) or (key.phase in ACTIVATIONS and _cut_of(key) in cuts)
    )
