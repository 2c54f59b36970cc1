"""A forward that is computed again is compared with the same rank's forward: its masks by value, its collectives."""

from dataclasses import replace

import torch

from shardproof.proving.axes import Axes
from shardproof.proving.cause import CauseKind
from shardproof.proving.findings import Verdict
from shardproof.proving.judging.masks import judge_masks
from shardproof.proving.judging.recomputation import judge_recomputed_collectives, judge_recomputed_masks
from shardproof.proving.records import CollectiveCall, DrawnMask, Key, Phase, Records

VALUES = torch.arange(1.0, 41, dtype=torch.float64)
MASK = torch.randn(40, generator=torch.Generator().manual_seed(0)) > 0
SUM = CollectiveCall(step=0, kind="AllReduce SUM", ranks=(0, 1), shapes=((2, 3),), location="in down")


def drawn(mask, values=VALUES, *, again=False):
    return DrawnMask(values=values, mask=mask, recomputed=again)


def masks(forward, again, step=0):
    """The forward's masks by module, and those that are drawn again, by module."""
    held = {Key(step, Phase.MASK, name): one for name, one in forward.items()}
    return held | {
        Key(step, Phase.MASK, f"{name} (recomputed)"): replace(one, recomputed=True) for name, one in again.items()
    }


def judge(*ranks):
    (finding,) = judge_recomputed_masks(ranks)
    return finding


def test_the_forward_is_found_by_its_values_whichever_module_drew_it():
    forward = {"a": drawn(~MASK, VALUES + 0.5), "b": drawn(MASK)}
    finding = judge(masks(forward, {"model": drawn(MASK)}))
    assert (finding.verdict, finding.false_accept, finding.elements) == (Verdict.PROVED, 2.0**-40, 40)
    assert judge(masks(forward, {"model": drawn(~MASK)})).verdict is Verdict.WRONG


def test_one_element_and_one_rank_are_enough():
    changed = MASK.clone()
    changed[3] = ~changed[3]
    right = masks({"a": drawn(MASK)}, {"a": drawn(MASK)})
    finding = judge(right, masks({"a": drawn(MASK)}, {"a": drawn(changed)}))
    assert (finding.verdict, finding.cause.kind, finding.ranks) == (Verdict.WRONG, CauseKind.RECOMPUTED_MASK, (1,))


def test_ranks_are_named_once_and_the_chance_is_that_of_the_rank_with_the_most_elements():
    steps = {again: masks({"a": drawn(MASK)}, {"a": drawn(again)}, step=1) for again in (MASK, ~MASK)}
    right, wrong = (masks({"a": drawn(MASK)}, {"a": drawn(again)}) | of_step for again, of_step in steps.items())
    finding = judge(right, right)
    assert (finding.verdict, finding.false_accept, finding.elements) == (Verdict.PROVED, 2.0**-80, 160)
    assert finding.key == Key(0, Phase.MASK, "a (recomputed)")
    finding = judge(right, wrong, wrong)
    assert (finding.verdict, finding.ranks, finding.elements, finding.root) == (Verdict.WRONG, (1, 2), 240, True)


def test_a_forward_of_another_length_is_of_other_values():
    forward = {"short": drawn(~MASK[:20], VALUES[:20]), "a": drawn(MASK)}
    assert judge(masks(forward, {"a": drawn(MASK)})).verdict is Verdict.PROVED


def test_another_steps_forward_is_not_the_one():
    held = masks({"a": drawn(MASK)}, {}) | masks({"a": drawn(~MASK)}, {"a": drawn(MASK)}, step=1)
    assert judge(held).verdict is Verdict.WRONG
    right = masks({"a": drawn(MASK)}, {"a": drawn(MASK)}) | masks({"a": drawn(~MASK)}, {"a": drawn(~MASK)}, step=1)
    assert judge(right).false_accept == 2.0**-80


def test_two_calls_on_the_same_values_may_each_be_the_one():
    held = masks({"a": drawn(MASK), "b": drawn(~MASK)}, {"a": drawn(~MASK)})
    assert judge(held).verdict is Verdict.PROVED


def test_without_a_forward_on_these_values_nothing_is_said_of_the_mask():
    assert judge(masks({"a": drawn(MASK)}, {"a": drawn(~MASK, VALUES + 1)})).verdict is Verdict.DRAWN


def test_masks_drawn_again_are_no_masks_of_the_forward():
    held = masks({"a": drawn(MASK)}, {"a": drawn(~MASK)})
    findings = judge_masks(held, [held, held], Axes(sizes={"tp": 2}))
    assert [(one.key.name, one.verdict) for one in findings] == [("a", Verdict.PROVED)]


def collectives(*calls):
    return judge_recomputed_collectives([Records(), Records(collectives=list(calls))])


def again(call=SUM, **changes):
    return replace(call, recomputed=True, **changes)


def test_the_same_collective_or_none_when_the_forward_is_computed_again():
    assert collectives(SUM, again()) == ()
    assert collectives(SUM) == ()
    # A gather of parameters, which the forward had of another shape.
    assert collectives(SUM, again(kind="AllGather", shapes=((4,),))) == ()
    assert collectives(SUM, again(kind="AllGather")) == ()
    assert collectives(SUM, replace(SUM, ranks=(0,))) == ()  # the backward's own


def test_other_ranks_and_another_reduction_are_wrong():
    for changes in ({"ranks": (0,)}, {"kind": "AllReduce MAX"}):
        (finding,) = collectives(SUM, again(**changes))
        assert (finding.verdict, finding.cause.kind, finding.ranks) == (
            Verdict.WRONG,
            CauseKind.RECOMPUTED_COLLECTIVE,
            (1,),
        )
        assert (finding.cause.forward_collective, finding.cause.recomputed_collective) == (SUM, again(**changes))


def test_all_ranks_of_a_place_are_in_one_finding_under_its_step():
    forward, wrong = replace(SUM, step=1), again(step=1, ranks=(0,))
    ranks = [Records(collectives=[forward, wrong, again(wrong, kind="AllReduce MAX")]) for _ in range(2)]
    (finding,) = judge_recomputed_collectives(ranks)
    assert finding.key == Key(1, Phase.COLLECTIVES, "in down (recomputed)")
    assert (finding.ranks, finding.root) == ((0, 1), True)
    assert finding.cause.recomputed_collective == wrong
    assert collectives(SUM, again(step=1, ranks=(0,))) == ()


def test_what_is_gathered_from_fewer_ranks_has_another_size_and_is_wrong():
    gather = replace(SUM, kind="AllGather", shapes=((2, 3), (4, 3)))
    assert len(collectives(gather, again(gather, ranks=(0,), shapes=((2, 3), (2, 3))))) == 1
    assert collectives(gather, again(gather, ranks=(0,), shapes=((1, 3), (2, 3)))) == ()


def test_the_first_of_several_is_named():
    later = replace(SUM, kind="AllReduce MIN")
    (finding,) = collectives(SUM, later, again(kind="AllReduce MAX"))
    assert finding.cause.forward_collective == SUM


def test_the_same_modules_collective_is_the_one_to_compare_with():
    other = replace(SUM, location="in up", ranks=(0,))
    assert len(collectives(SUM, other, again(ranks=(0,)))) == 1
    # Outside any module it may be any of them.
    assert collectives(SUM, other, again(ranks=(0,), location="after loss loss")) == ()
    assert collectives(SUM, replace(other, step=1), again(ranks=(0,), location="after loss loss")) != ()


def test_what_the_backward_sums_afterwards_is_not_the_forward():
    assert len(collectives(SUM, again(ranks=(0,)), replace(SUM, ranks=(0,)))) == 1
    assert collectives(SUM, replace(SUM, ranks=(0,)), again(ranks=(0,))) == ()  # it may be the forward's
