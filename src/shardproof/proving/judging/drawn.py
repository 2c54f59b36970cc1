"""What is drawn at random, judged apart from the arithmetic: initial values and dropout masks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shardproof.proving.judging.initial import find_repeated, judge_initial
from shardproof.proving.judging.masks import judge_masks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shardproof.proving.findings import Finding
    from shardproof.proving.judging.layout import Layout
    from shardproof.proving.records import BothSides, SideRecord


def judge_drawn(both: BothSides, layout: Layout) -> tuple[tuple[Finding, ...], tuple[Finding, ...]]:
    """The findings of the initial values, which come first, and of the masks, which come last.

    A training of the user's own is given its initial values, so that there are none to look at.
    """
    initial: tuple[Finding, ...] = ()
    if all(side.initial for side in both.ranks):
        initial = judge_initial(both.reference.initial, [side.initial for side in both.ranks], layout)
    return initial, judge_masks(both.reference.masks, [side.masks for side in both.ranks], both.axes)


def find_shards_drawn_alike(reference: SideRecord, ranks: Sequence[SideRecord]) -> tuple[Finding, ...]:
    """Of a sharding that draws its own values, so that nothing else can be proved: the shards that are the same."""
    if not all(side.initial for side in ranks):
        return ()
    return find_repeated(reference.initial, [side.initial for side in ranks])
