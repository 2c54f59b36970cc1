"""One trial's outcome for each tensor: what every rank holds against what the reference says it should."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import torch

from shardproof.proving.judging.causes import explain
from shardproof.proving.judging.layout import PADDING
from shardproof.proving.records import ACTIVATIONS, OF_PARAMETERS, Key, Phase

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from shardproof.proving.axes import Axes
    from shardproof.proving.judging.alignment import Aligned, Alignment, Held

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Of one tensor in one trial.

    Attributes:
        equal: every element that any rank holds is the reference's.
        void: a division by zero on either side: the trial says nothing if they differ.
        chance: a bound on the probability that different formulas agree; 1 where none is derived.
        cause: in words, if a relation explains the difference.
        ranks: where it differs.
        differing: elements that differ, over all ranks, of `elements`.
        informative: elements of the reference that are not zero, over all ranks.
        blind: what no element that is not zero probes: ranks, and of tensors of three and more dims (experts, kernels)
            slices along the first.
        constant: the reference's elements are the same numbers whatever the parameters are.
        partial: an activation whose sum over ranks is right: reduced later or not, its user will show.
        over: the axes of that sum in words, where the mesh has several.
    """

    equal: bool
    void: bool = False
    chance: float = 1.0
    cause: str = ""
    ranks: tuple[int, ...] = ()
    differing: int = 0
    elements: int = 0
    informative: int = 0
    blind: frozenset[str] = frozenset()
    constant: bool = False
    partial: bool = False
    over: str = ""


def judge(alignment: Alignment, prime: int) -> dict[Key, Outcome]:
    """Outcomes of one exact run, for each tensor on either side, in the candidate's order."""
    return walk(
        alignment,
        lambda key, aligned: _outcome(aligned, prime, alignment.axes, partial_allowed=key.phase in ACTIVATIONS),
        lambda _key, fault: Outcome(equal=False, cause=fault),
    )


def _unreported(alignment: Alignment) -> frozenset[Phase]:
    """What a training of the user's own need not report: its norm and updates say it too.

    Optimizer state is asked for if it reports some: without any it is an update by hand (`run.record_update(None)`).
    """
    if not alignment.own_training:
        return frozenset()
    reported = {key.phase for records in alignment.ranks for key in records.tensors}
    return frozenset({Phase.CLIPPED, Phase.STATE}) - reported


def find_blind(held: Mapping[int, Held]) -> frozenset[str]:
    """The parts of a tensor whose elements are all zero in the reference, in words; padding is no part of it."""
    found = set()
    for rank, one in held.items():
        real = torch.ones_like(one.expected, dtype=torch.bool) if one.places is None else one.places != PADDING
        seen = one.expected != 0
        if bool(real.any()) and not bool((seen & real).any()):
            found.add(f"rank {rank}")
        elif seen.ndim > 2:
            empty = real.flatten(1).any(1) & ~(seen & real).flatten(1).any(1)
            found |= {f"slice {index} of rank {rank}" for index in empty.nonzero().flatten().tolist()}
    return frozenset(found)


def walk(alignment: Alignment, compared: Callable[[Key, Aligned], T], faulty: Callable[[Key, str], T]) -> dict[Key, T]:
    """What is said of each tensor on either side, in the candidate's order.

    Args:
        alignment: of the two sides.
        compared: says it of one that both have.
        faulty: says it of one that cannot be compared, given what is wrong.
    """
    reference, ranks = alignment.reference, alignment.ranks
    unreported = _unreported(alignment)
    found: dict[Key, T] = {}
    for key in dict.fromkeys(key for records in ranks for key in records.missing):
        if key not in reference.missing:
            found[key] = faulty(key, "the parameter has a gradient on one device and none here")
    for key in dict.fromkeys(key for records in ranks for key in records.tensors):
        aligned = alignment.of(key)
        if aligned is not None:
            found[key] = faulty(key, aligned.fault) if aligned.fault else compared(key, aligned)
    for key in reference.tensors:
        if key.phase in (Phase.LOSS, Phase.NORM) and key not in found:
            found[key] = faulty(key, "the candidate does not compute it")
        elif key.phase in unreported:
            continue
        elif key.phase in OF_PARAMETERS and not alignment.covers(key) and key not in found:
            found[key] = faulty(key, "no rank of the candidate computes all of it")
    return found


def misshape_of(aligned: Aligned) -> str:
    """What is wrong with a rank's shape; empty if nothing is."""
    wrong = next((one for one in aligned.held.values() if one.actual.shape != one.expected.shape), None)
    return f"of shape {tuple(wrong.actual.shape)} instead of {tuple(wrong.expected.shape)}" if wrong else ""


def _outcome(aligned: Aligned, prime: int, axes: Axes, *, partial_allowed: bool) -> Outcome:
    void = any(one.void for one in aligned.involved)
    chance = max(one.chance for one in aligned.involved)
    held = aligned.held
    misshapen = misshape_of(aligned)
    if misshapen:
        return Outcome(equal=False, void=void, chance=chance, cause=misshapen, ranks=tuple(held))
    differing = {rank: int((one.actual != one.expected).sum()) for rank, one in held.items()}
    partial = _partial_over(held, prime, axes) if partial_allowed and any(differing.values()) else ()
    if partial:
        # Reduced later or not: whoever uses it unreduced is the one that parts.
        differing = dict.fromkeys(differing, 0)
    wrong = tuple(rank for rank, count in differing.items() if count)
    return Outcome(
        equal=not wrong,
        void=void,
        chance=chance,
        cause=explain(held, prime, axes) if wrong else "",
        ranks=wrong,
        differing=sum(differing.values()),
        elements=sum(one.expected.numel() for one in held.values()),
        informative=sum(int(one.expected.count_nonzero()) for one in held.values()),
        blind=frozenset() if partial_allowed else find_blind(held),  # no activation is vacuous
        constant=chance == 0.0,
        partial=bool(partial),
        over=axes.over(partial) if partial else "",
    )


def _partial_over(held: Mapping[int, Held], prime: int, axes: Axes) -> tuple[str, ...]:
    """The axes over which the sum of what the ranks hold is right; empty if there are none."""
    for names in axes.choices():
        groups = [[held[rank] for rank in group if rank in held] for group in axes.groups(names)]
        if all(_sums_up(group, prime) for group in groups if group):
            return names
    return ()


def _sums_up(group: Sequence[Held], prime: int) -> bool:
    """Whether ranks hold values of one shape whose sum is right; elements may be right already.

    A projection of which a part is used by all ranks alike and another by each for itself has such a gradient.
    """
    expected = group[0].expected
    if not all(torch.equal(one.expected, expected) for one in group):
        return False
    parts = torch.stack([one.actual for one in group])
    right = (parts == expected).all(0)
    return bool((right | ((parts.sum(0) - expected) % prime == 0)).all())
