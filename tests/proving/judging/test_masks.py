"""Masks are laid out by the values that they drop; the rows and their causes stand in the judge's table."""

import pytest
import torch

from shardproof.proving.axes import Axes
from shardproof.proving.cause import CauseKind
from shardproof.proving.findings import Verdict
from shardproof.proving.judging.masks import judge_masks
from shardproof.proving.records import DrawnMask, Key, Phase

TP, DP_TP = Axes(sizes={"tp": 2}), Axes(sizes={"dp": 2, "tp": 2}, data=("dp",))
VALUES = torch.arange(1.0, 65, dtype=torch.float64)
MASK = torch.randn(64, generator=torch.Generator().manual_seed(0)) > 0
OTHER = ~MASK


def drop(step=0, name="drop", call=0):
    return Key(step, Phase.MASK, name, call)


def held(*parts, steps=1):
    """What a rank draws: the same in every step."""
    values, mask = parts
    return {drop(step): DrawnMask(values=values, mask=mask) for step in range(steps)}


def judge(reference, *ranks, axes=TP):
    (finding,) = judge_masks(reference, ranks, axes)
    return finding


def test_the_chance_is_that_of_the_rank_with_the_most_elements():
    finding = judge(held(VALUES, MASK), held(VALUES[:40], MASK[:40]), held(VALUES[40:], MASK[40:]))
    assert (finding.verdict, finding.false_accept, finding.elements) == (Verdict.PROVED, 2.0**-40, 64)


def test_steps_count_together_and_a_step_that_is_missing_is_not_proved():
    whole, both = held(VALUES, MASK, steps=2), held(VALUES, MASK, steps=2)
    assert judge(whole, both, both).false_accept == 2.0**-128
    assert judge(whole, held(VALUES, MASK), held(VALUES, MASK)).verdict is Verdict.DRAWN


@pytest.mark.parametrize("other", [0, 1, 2])
def test_every_step_drops_what_it_drops_on_one_device(other):
    whole = held(VALUES, MASK, steps=3)
    ranks = [held(VALUES[part], MASK[part], steps=3) for part in (slice(40), slice(40, 64))]
    assert judge(whole, *ranks).verdict is Verdict.PROVED
    ranks[1][drop(other)] = DrawnMask(values=VALUES[40:], mask=OTHER[40:])
    assert judge(whole, *ranks).verdict is Verdict.DRAWN


def test_ranks_of_one_mask_in_fewer_steps_than_one_device_hold_other_values_where_they_are_as_many():
    whole = held(VALUES, MASK, steps=2)
    partial, rest = held(VALUES / 3, OTHER), held(VALUES * 2 / 3, OTHER)
    finding = judge(whole, partial, rest)
    assert (finding.verdict, finding.cause.kind) == (Verdict.DRAWN, CauseKind.MASK_SHARED_ON_OTHER_VALUES)
    few = judge(whole, held(VALUES[:40], OTHER[:40]), held(VALUES[24:], OTHER[:40]))
    assert (few.verdict, few.cause.kind) == (Verdict.WRONG, CauseKind.MASK_SHARED)


def test_one_element_that_is_dropped_otherwise_is_not_proved():
    changed = MASK.clone()
    changed[3] = ~changed[3]
    assert judge(held(VALUES, MASK), held(VALUES, changed), held(VALUES, changed)).verdict is Verdict.DRAWN


def test_rounding_does_not_hide_an_element_and_another_value_does():
    near, far = VALUES * (1 + 1e-12), VALUES + 0.5
    assert judge(held(VALUES, MASK), held(near, MASK), held(near, MASK)).verdict is Verdict.PROVED
    assert judge(held(VALUES, MASK), held(far, MASK), held(far, MASK)).verdict is Verdict.DRAWN


@pytest.mark.parametrize("kept", [False, True])
def test_a_value_that_one_device_does_not_have_counts_for_nothing(kept):
    own = held(torch.cat([VALUES, torch.tensor([1000.0])]), torch.cat([MASK, torch.tensor([kept])]))
    finding = judge(held(VALUES, MASK), own, own)
    assert (finding.verdict, finding.false_accept) == (Verdict.PROVED, 2.0**-64)


def test_a_value_that_is_there_twice_identifies_nothing():
    twice = torch.cat([VALUES[:32], VALUES[:32]])
    finding = judge(held(twice, MASK), held(VALUES[:32], OTHER[:32]), held(VALUES[:32], OTHER[:32]))
    assert finding.verdict is Verdict.DRAWN


@pytest.mark.parametrize(
    ("masks", "kind", "ranks"),
    [
        ((MASK, MASK, OTHER, OTHER), CauseKind.MASK_SHARED, (0, 1)),
        ((MASK, OTHER, MASK, OTHER), None, ()),
        ((MASK, OTHER, ~MASK.roll(1), MASK.roll(2)), None, ()),
    ],
)
def test_ranks_on_different_rows_may_share_a_mask_and_shards_of_the_same_rows_may_not(masks, kind, ranks):
    """Ranks 0 and 1 hold halves of the first rows, ranks 2 and 3 of the second."""
    whole = held(torch.arange(1.0, 257, dtype=torch.float64), MASK.repeat(4))
    parts = [held(VALUES + 64 * rank, mask) for rank, mask in enumerate(masks)]
    finding = judge(whole, *parts, axes=DP_TP)
    if kind is None:
        assert finding.verdict is Verdict.DRAWN
    else:
        assert (finding.verdict, finding.cause.kind, finding.ranks) == (Verdict.WRONG, kind, ranks)


def test_each_call_is_a_finding_under_its_first_step():
    ranks = [{drop(): DrawnMask(values=VALUES, mask=MASK), drop(call=1): DrawnMask(values=VALUES, mask=OTHER)}] * 2
    assert [one.key for one in judge_masks(ranks[0], ranks, TP)] == [drop(), drop(call=1)]
    assert judge_masks({}, [{}, {}], TP) == ()


def test_replicas_that_draw_in_fewer_steps_are_no_replicas():
    whole = held(VALUES, MASK, steps=2)
    finding = judge(whole, held(VALUES, OTHER, steps=2), held(VALUES, MASK))
    assert finding.verdict is Verdict.DRAWN


@pytest.mark.parametrize(
    ("elements", "steps", "verdict", "kind"),
    [
        (32, 1, Verdict.WRONG, CauseKind.MASK_SHARED),
        (31, 1, Verdict.VACUOUS, CauseKind.MASK_TOO_SMALL),
        (16, 2, Verdict.WRONG, CauseKind.MASK_SHARED),
        (16, 1, Verdict.VACUOUS, CauseKind.MASK_TOO_SMALL),
    ],
)
def test_a_mask_that_two_shards_share_is_of_32_elements_at_least_over_all_steps(elements, steps, verdict, kind):
    own = MASK[:elements]
    whole = held(VALUES[: 2 * elements], torch.cat([own, ~own]), steps=steps)
    shards = [held(VALUES[part], own, steps=steps) for part in (slice(elements), slice(elements, 2 * elements))]
    finding = judge(whole, *shards)
    assert (finding.verdict, finding.cause.kind, finding.ranks) == (verdict, kind, (0, 1))
    assert finding.cause.elements == (elements if verdict is Verdict.VACUOUS else None)


def test_the_shorter_of_two_masks_may_be_the_start_of_the_longer_one():
    whole = held(torch.arange(1.0, 97, dtype=torch.float64), torch.cat([OTHER, MASK[:32]]))
    longer, other = held(VALUES, MASK), held(VALUES[:32] + 64, MASK[:32])
    assert judge(whole, longer, other).cause.kind is CauseKind.MASK_SHARED
    assert judge(whole, longer, held(VALUES[:32] + 64, MASK[32:])).verdict is Verdict.DRAWN


def test_replicas_of_zeros_are_replicas():
    zeros = torch.zeros_like(VALUES)
    finding = judge(held(zeros, MASK), held(zeros, MASK), held(zeros, OTHER))
    assert (finding.verdict, finding.cause.kind) == (Verdict.WRONG, CauseKind.MASK_REPLICAS_DIFFER)
