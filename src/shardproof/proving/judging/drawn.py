"""What is drawn at random, judged apart from the arithmetic: initial values and dropout masks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shardproof.proving.judging.initial import find_repeated, initial_values, judge_initial
from shardproof.proving.judging.masks import judge_masks
from shardproof.proving.running.models import build_as_it_is

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shardproof.proving.findings import Finding
    from shardproof.proving.judging.layout import Layout
    from shardproof.proving.running.one_rank import Side
    from shardproof.proving.running.request import Runs
    from shardproof.proving.step import Step


def judge_drawn(
    step: Step, runs: Runs, reference: Side, ranks: Sequence[Side], layout: Layout
) -> tuple[tuple[Finding, ...], tuple[Finding, ...]]:
    """The findings of the initial values, which come first, and of the masks, which come last.

    A training of the user's own is given its initial values, so that there are none to look at.
    """
    initial: tuple[Finding, ...] = ()
    if all(side.initial for side in ranks):
        initial = judge_initial(
            initial_values(build_as_it_is(step, runs.build_seed)), [side.initial for side in ranks], layout
        )
    return initial, judge_masks(reference.masks, [side.masks for side in ranks], runs.axes)


def find_shards_drawn_alike(step: Step, runs: Runs, ranks: Sequence[Side]) -> tuple[Finding, ...]:
    """Of a sharding that draws its own values, so that nothing else can be proved: the shards that are the same."""
    if not all(side.initial for side in ranks):
        return ()
    return find_repeated(initial_values(build_as_it_is(step, runs.build_seed)), [side.initial for side in ranks])
