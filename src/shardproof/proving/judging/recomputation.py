"""Recomputation: what is computed again in the backward is compared with the forward of the same rank.

In exact arithmetic a dropout mask is a function of the element, so a forward that is computed again agrees whatever
generator it draws from; and what it sums over other ranks may not be used any more. So the masks that the generators
draw and the collectives are compared here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from shardproof.proving.cause import Cause, CauseKind, Mend
from shardproof.proving.findings import Finding, Verdict
from shardproof.proving.judging.masks import are_same_values
from shardproof.proving.records import Key, Phase

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shardproof.proving.records import CollectiveCall, DrawnMask, Masks, Records


@dataclass(frozen=True, slots=True, kw_only=True)
class _Repeated:
    """One mask that was drawn again.

    Attributes:
        rank: that drew it.
        mask: the one drawn again.
        forward: those that the rank's forward drew for the same values.
    """

    rank: int
    mask: DrawnMask
    forward: Sequence[DrawnMask]

    @property
    def differs(self) -> bool:
        """Whether the forward has drawn no such mask for these values."""
        return bool(self.forward) and not any(torch.equal(one.mask, self.mask.mask) for one in self.forward)


def judge_recomputed_masks(ranks: Sequence[Masks]) -> tuple[Finding, ...]:
    """One finding for each call of dropout that is computed again in a step, over all steps and ranks."""
    drawn_again: dict[Key, list[_Repeated]] = {}
    for rank, masks in enumerate(ranks):
        for key, mask in masks.items():
            if mask.recomputed:
                repeated = _Repeated(rank=rank, mask=mask, forward=_forward_of(key, mask, masks))
                drawn_again.setdefault(Key(0, key.phase, key.name, key.call), []).append(repeated)
    return tuple(_judge_masks(key, found) for key, found in drawn_again.items())


def judge_recomputed_collectives(ranks: Sequence[Records]) -> tuple[Finding, ...]:
    """A finding for each place at which a forward that is computed again calls another collective than the forward.

    FSDP2 gathers parameters once for both, so a collective may be missing when a forward is computed again, and there
    may be one more; only one that takes another's place is wrong.
    """
    found: dict[Key, list[int]] = {}
    causes: dict[Key, Cause] = {}
    for rank, records in enumerate(ranks):
        for number, again in enumerate(records.collectives):
            instead = _replaced_by(again, records.collectives[:number]) if again.recomputed else None
            if instead is not None:
                key = Key(again.step, Phase.COLLECTIVES, f"{instead.location} (recomputed)")
                causes.setdefault(
                    key,
                    Cause(
                        kind=CauseKind.RECOMPUTED_COLLECTIVE, forward_collective=instead, recomputed_collective=again
                    ),
                )
                found.setdefault(key, []).append(rank)
    return tuple(
        Finding(key=key, verdict=Verdict.WRONG, cause=causes[key], ranks=tuple(dict.fromkeys(ranks_of)), root=True)
        for key, ranks_of in found.items()
    )


def _forward_of(key: Key, again: DrawnMask, masks: Masks) -> list[DrawnMask]:
    """The masks of the same step's forward on the same values, whichever module drew them.

    A function that a checkpoint calls runs inside a module in the forward, and outside any when it is called again.
    """
    return [
        one
        for other, one in masks.items()
        if other.step == key.step
        and not one.recomputed
        and one.values.shape == again.values.shape
        and are_same_values(one.values, again.values)
    ]


def _judge_masks(key: Key, found: Sequence[_Repeated]) -> Finding:
    elements = sum(len(repeated.mask.mask) for repeated in found)
    differing = tuple(dict.fromkeys(repeated.rank for repeated in found if repeated.differs))
    if differing:
        cause = Cause(kind=CauseKind.RECOMPUTED_MASK, mend=Mend.RESTORE_GENERATOR)
        return Finding(key=key, verdict=Verdict.WRONG, cause=cause, ranks=differing, elements=elements, root=True)
    if not all(repeated.forward for repeated in found):
        # Other values: either it repeats no forward, or the gradients are wrong, and the proof says so of them.
        return Finding(key=key, verdict=Verdict.DRAWN, cause=Cause(kind=CauseKind.MASK_OWN), elements=elements)
    counts = {repeated.rank: 0 for repeated in found}
    for repeated in found:
        counts[repeated.rank] += len(repeated.mask.mask)
    # Of one rank alone: the others may be in step with it.
    return Finding(key=key, verdict=Verdict.PROVED, elements=elements, false_accept=2.0 ** -max(counts.values()))


def _replaced_by(again: CollectiveCall, before: Sequence[CollectiveCall]) -> CollectiveCall | None:
    """The forward's collective in whose place this one stands; None if the forward has it too, or none in its place.

    In its place stands one of the same step, on a tensor of the same shape; in the same module, if there is one. Only
    calls `before` it are asked: a gradient of the same shape may be summed over the other group afterwards.
    """
    alike = [
        one
        for one in before
        if one.step == again.step
        and not one.recomputed
        and one.shapes[:1] == again.shapes[:1]
        and _operation(one) == _operation(again)
    ]
    alike = [one for one in alike if one.location == again.location] or alike
    if not alike or any((one.kind, one.ranks) == (again.kind, again.ranks) for one in alike):
        return None
    return alike[0]


def _operation(collective: CollectiveCall) -> str:
    """Without its reduction."""
    return collective.kind.partition(" ")[0]
