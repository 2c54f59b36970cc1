"""Numbers beside a proof and instead of one: what is far off is wrong, and the first such activation is named."""

import pytest
from tests.proving.judging.cases.native import COLLECTIVES, call, sequences
from tests.proving.judging.made_up import (
    BIAS,
    DOWN,
    LOSS,
    UP,
    WEIGHT,
    exact_runs,
    judged,
    judged_numerically,
    make_sides,
    native_runs,
    own_run,
)

from shardproof.errors import CannotRunError
from shardproof.proving.cause import CauseKind
from shardproof.proving.findings import Verdict
from shardproof.proving.judging.judge import find_candidate_layout, judge_numerically


def spoil(*tensors, runs=native_runs, size=1.0):
    def change(draft):
        for tensor in tensors:
            draft.spoil(tensor, runs=runs(draft), size=size)

    return change


def test_every_finding_of_a_proof_has_its_numbers():
    findings = judged(spoil(BIAS, size=1e-9))
    assert findings[BIAS].verdict is Verdict.PROVED
    assert all(findings[tensor].numbers.within for tensor in (LOSS, WEIGHT, BIAS))


def test_a_proved_tensor_that_is_far_off_is_wrong_and_one_that_is_wrong_stays_as_it_was():
    findings = judged(lambda draft: (spoil(WEIGHT, runs=own_run)(draft), draft.spoil(BIAS)))
    assert findings[WEIGHT].cause.dtype == "float32"
    assert findings[BIAS].cause.kind is CauseKind.UNEXPLAINED
    assert {findings[tensor].verdict for tensor in (WEIGHT, BIAS)} == {Verdict.WRONG}


@pytest.mark.parametrize(
    ("tensors", "added"), [((DOWN, BIAS), {DOWN}), ((UP, DOWN, BIAS), {UP, DOWN}), ((DOWN,), set()), ((BIAS,), set())]
)
def test_activations_are_added_where_a_result_is_far_off(tensors, added):
    findings = judged(spoil(*tensors, runs=own_run))
    assert findings.keys() & {UP, DOWN} == added
    assert {tensor for tensor, one in findings.items() if one.root} == ({tensors[0]} if BIAS in tensors else set())


@pytest.mark.parametrize(("tensors", "added"), [((DOWN,), set()), ((DOWN, BIAS), {DOWN})])
def test_diverging_collectives_alone_add_no_activation(tensors, added):
    findings = judged(lambda draft: (sequences([call()], [])(draft), spoil(*tensors, runs=own_run)(draft)))
    assert COLLECTIVES in findings
    assert findings.keys() & {UP, DOWN} == added


def test_an_activation_that_differed_exactly_is_not_added_again():
    def change(draft):
        draft.spoil(DOWN, runs=exact_runs(draft))
        spoil(DOWN, BIAS, runs=own_run)(draft)

    assert DOWN not in judged(change)


def test_numbers_alone_keep_no_activation_where_all_is_well():
    assert judged_numerically(spoil(DOWN)).keys().isdisjoint({UP, DOWN})
    findings = judged_numerically(spoil(DOWN, LOSS))
    assert findings[DOWN].verdict is Verdict.WRONG
    assert UP not in findings
    assert [tensor for tensor, one in findings.items() if one.root] == [DOWN]


def test_only_ranks_that_are_off_are_named():
    finding = judged_numerically(lambda draft: draft.spoil(WEIGHT, ranks=(1,)))[WEIGHT]
    assert (finding.ranks, finding.elements) == ((1,), 12)


def test_nothing_compared_is_an_error():
    def empty(draft):
        for run in draft.runs:
            draft.reference[run].clear()
        for rank in draft.ranks:
            for held in rank.values():
                held.clear()

    both = make_sides(empty)
    with pytest.raises(CannotRunError, match="nothing was compared"):
        judge_numerically(both, find_candidate_layout(both))
