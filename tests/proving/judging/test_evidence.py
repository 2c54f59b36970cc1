"""Evidence: agreement of activations, shards of every rank, collectives once, values of what is not right."""

from dataclasses import replace

import pytest
import torch
from tests.proving.judging import made_up
from tests.proving.judging.made_up import BIAS, DOWN, LOSS, UP, WEIGHT, make_sides

from shardproof.proving.evidence import Agreement
from shardproof.proving.judging import evidence as module
from shardproof.proving.judging.evidence import collect_evidence
from shardproof.proving.judging.judge import (
    compare_trials,
    find_candidate_layout,
    judge_exactly,
    judge_numerically,
    measure_in_float64,
)
from shardproof.proving.records import CollectiveCall, Records


def collected(change=None, *, show=(), axes=made_up.TP):
    both = make_sides(change, axes=axes)
    layout = find_candidate_layout(both)
    outcomes = compare_trials(both, layout)
    findings = judge_exactly(both, layout, outcomes, measure_in_float64(both, layout, outcomes))
    return collect_evidence(both, layout, outcomes[0], findings, show)


def agreement(evidence, key):
    return next(one.agreement for one in evidence.activations if one.key == key)


def test_a_right_step_has_no_values_and_all_of_its_activations_agree():
    found = collected()
    assert found.samples == {}
    assert found.left_out == 0
    assert {one.agreement for one in found.activations} == {Agreement.EQUAL}


def test_what_is_wrong_is_kept_by_rank_with_what_differs():
    found = collected(lambda draft: draft.spoil(WEIGHT, ranks=(1,)))
    assert [sample.rank for sample in found.samples[WEIGHT]] == [0, 1]
    right, wrong = found.samples[WEIGHT]
    assert right.shape == wrong.shape == (2, 3)
    assert not right.differs.any()
    assert wrong.differs.all()
    assert not torch.equal(wrong.actual, wrong.expected)
    assert BIAS not in found.samples


def test_which_elements_differ_is_told_by_exact_arithmetic_where_there_is_any():
    found = collected(lambda draft: draft.spoil(WEIGHT, ranks=(1,), runs=made_up.exact_runs(draft)))
    right, wrong = found.samples[WEIGHT]
    assert not right.differs.any()
    assert wrong.differs.all()
    assert torch.equal(wrong.actual, wrong.expected)  # in float64 they are right


def test_by_numbers_alone_activations_that_are_no_findings_agree():
    both = make_sides(lambda draft: draft.spoil(DOWN))
    layout = find_candidate_layout(both)
    findings = judge_numerically(both, layout)
    found = collect_evidence(both, layout, {}, findings)
    assert {one.key: one.agreement for one in found.activations if one.key in (UP, DOWN)} == {
        UP: Agreement.EQUAL,
        DOWN: Agreement.EQUAL,  # nothing that follows from it is wrong
    }


def test_a_right_tensor_is_kept_if_it_is_asked_for():
    assert set(collected(show=["gradient down.*"]).samples) == {BIAS}
    assert set(collected(show=["loss *"]).samples) == {LOSS}


def test_a_wrong_activation_differs_and_a_part_of_a_sum_is_called_that():
    assert agreement(collected(lambda draft: draft.spoil(DOWN)), DOWN) is Agreement.DIFFERENT

    def half(draft):
        draft.part(DOWN)

    assert agreement(collected(half), DOWN) is Agreement.PARTIAL


def test_the_shards_of_parameters_and_activations_are_found():
    found = collected()
    assert found.parameters["up.weight"].boxes == {0: (((0, 2),), ((0, 3),)), 1: (((2, 4),), ((0, 3),))}
    assert found.parameters["down.bias"].boxes == {0: (((0, 3),),), 1: (((0, 3),),)}
    up = next(one for one in found.activations if one.key == UP)
    assert up.shards.shape == (2, 4)
    assert up.shards.boxes == {0: (((0, 2),), ((0, 2),)), 1: (((0, 2),), ((2, 4),))}


def test_the_shards_of_a_parameter_are_told_wherever_it_stands_in_the_state():
    def split(draft):
        experts = made_up.parameters()["experts"]
        draft.start["experts"] = [experts[:1], experts[1:]]

    whole = ((0, 2),)
    boxes = collected(split).parameters["experts"].boxes
    assert boxes == {0: (((0, 1),), whole, whole), 1: (((1, 3),), whole, whole)}


@pytest.mark.parametrize(
    ("numbers", "shape", "box"),
    [
        ([0, 1, 4, 5], (2, 4), (((0, 2),), ((0, 2),))),
        ([0, 1, 2, 3, 8, 9, 10, 11], (4, 4), (((0, 1), (2, 3)), ((0, 4),))),  # rows of a fused matrix
        ([0, 5], (2, 4), None),  # a diagonal
        ([], (2, 4), None),
        ([0], (), ()),
    ],
)
def test_a_box_holds_exactly_these_elements(numbers, shape, box):
    assert module._box_of(torch.tensor(numbers, dtype=torch.int64), shape) == box


def test_a_collective_of_several_ranks_is_told_once():
    def call(*ranks, kind="AllReduce SUM"):
        return CollectiveCall(step=0, location="in up", kind=kind, ranks=ranks, shapes=((2,),), dtype="float32")

    def talk(draft):
        draft.collectives = {run: [call(0, 1), call(0, 1, kind="Send")] for run in draft.runs}

    assert [one.kind for one in collected(talk).collectives] == ["AllReduce SUM", "Send"]


def test_values_stop_where_there_is_no_space_and_first_causes_come_before_the_rest(monkeypatch):
    def spoil(draft):
        for key in (WEIGHT, BIAS):
            draft.spoil(key)

    assert set(collected(spoil).samples) == {WEIGHT, BIAS}
    monkeypatch.setattr(module, "_MOST_SAMPLED", 1)
    found = collected(spoil)
    assert len(found.samples) == 1
    assert found.left_out == 1


def test_a_call_that_the_first_rank_has_no_part_in_is_told_by_its_own():
    def call(*ranks):
        return CollectiveCall(step=0, location="in up", kind="AllReduce SUM", ranks=ranks, shapes=((2,),))

    ranks = [Records(collectives=[call(0, 1)]), Records(collectives=[call(0, 1), call(1, 2)])]
    merged = module._merge_calls([*ranks, Records(collectives=[call(1, 2), call(2)])])
    assert [one.ranks for one in merged] == [(0, 1), (1, 2), (2,)]


def test_space_that_is_used_up_to_the_last_cell_is_used_up(monkeypatch):
    def spoil(draft):
        for key in (WEIGHT, BIAS):
            draft.spoil(key)

    first, *_ = collected(spoil).samples.values()
    monkeypatch.setattr(module, "_MOST_SAMPLED", sum(sample.differs.numel() for sample in first))
    found = collected(spoil)
    assert len(found.samples) == 1
    assert found.left_out == 1


def by_numbers(change, key, **numbers):
    """The samples of a tensor without exact runs: its finding has these numbers, or none."""
    both = replace(make_sides(change), primes=())
    layout = find_candidate_layout(both)
    (finding,) = [one for one in judge_numerically(both, layout) if one.key == key]
    finding = replace(finding, numbers=replace(finding.numbers, **numbers) if numbers else None)
    return collect_evidence(both, layout, {}, [finding], ["*"]).samples.get(key, ())


@pytest.mark.parametrize(
    ("off", "numbers", "differs"),
    [
        (0.0, {}, False),
        (1e-6, {}, True),
        (1.0, {"noise": 0.5}, False),  # within eight times the noise
        (5.0, {"noise": 0.5}, True),
    ],
)
def test_by_numbers_alone_what_is_outside_the_noise_differs(off, numbers, differs):
    def move(values, run, rank):
        return values if run.prime or rank == 0 else values + torch.tensor([0.0, 0.0, off], dtype=values.dtype)

    right, moved = by_numbers(lambda draft: draft.change(BIAS, move, runs=made_up.native_runs(draft)), BIAS, **numbers)
    assert not right.differs.any()
    assert moved.differs.tolist() == [[False, False, differs]]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_holds_another_shape_has_no_sample_and_the_others_have(rank):
    def widen(draft):
        draft.change(LOSS, lambda values, *_: values.expand(2), ranks=(rank,), runs=made_up.native_runs(draft))

    assert [sample.rank for sample in by_numbers(widen, LOSS)] == [1 - rank]
