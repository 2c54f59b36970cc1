"""Inputs of updates: full tensors from shards; ranks whose replicas differ have inputs of their own."""

from dataclasses import replace

import torch
from tests.proving.judging.made_up import (
    BIAS,
    EXPERTS,
    NEW_BIAS,
    NEW_WEIGHT,
    SHAPES,
    WEIGHT,
    key,
    make_sides,
    own_run,
    parameters,
)

from shardproof.proving.judging.judge import find_candidate_layout
from shardproof.proving.judging.update_inputs import collect_update_inputs
from shardproof.proving.records import Phase

CLIPPED = key(Phase.CLIPPED, "down.bias")
MOMENTUM = key(Phase.STATE, "up.weight/momentum")


def collect(change=None, *, start=True):
    both = make_sides(change)
    if start:
        both = replace(both, ranks=[replace(side, start=parameters(rank)) for rank, side in enumerate(both.ranks)])
    return collect_update_inputs(both, find_candidate_layout(both)), both


def held(both, tensor, rank=0):
    return both.ranks[rank].native[both.own_precision].tensors[tensor].values


def test_shards_are_put_together_to_full_tensors_in_the_dtypes_of_the_reference():
    (inputs,), both = collect()
    assert inputs.ranks == (0, 1)
    (one,) = inputs.steps
    assert {name: values.shape for name, values in one.gradients.items()} == {
        name: torch.Size(shape) for name, shape in SHAPES.items()
    }
    assert torch.equal(one.gradients["up.weight"], torch.cat([held(both, WEIGHT, rank) for rank in range(2)]))
    assert torch.equal(one.updates["up.weight"], torch.cat([held(both, NEW_WEIGHT, rank) for rank in range(2)]))
    assert torch.equal(one.updates["down.bias"], held(both, NEW_BIAS))
    assert torch.equal(inputs.parameters["experts"].double(), parameters()["experts"])
    assert {values.dtype for values in one.gradients.values()} == {torch.float32}
    assert not one.clipped
    assert one.states == {}


def test_ranks_whose_replicas_differ_have_inputs_of_their_own():
    (first, second), both = collect(lambda draft: draft.spoil(BIAS, ranks=(1,), runs=own_run(draft), size=1e-6))
    assert (first.ranks, second.ranks) == ((0,), (1,))
    for inputs, rank in ((first, 0), (second, 1)):
        assert torch.equal(inputs.steps[0].gradients["down.bias"], held(both, BIAS, rank))
        assert len(inputs.steps[0].gradients["up.weight"]) == 4


def test_clipped_gradients_and_states_are_taken_where_they_are_recorded():
    def change(draft):
        for run in own_run(draft):
            for rank, one in enumerate(draft.ranks):
                one[run][CLIPPED] = one[run][BIAS] / 2
                one[run][MOMENTUM] = one[run][WEIGHT] + rank

    (inputs,), both = collect(change)
    (one,) = inputs.steps
    assert one.clipped
    assert torch.equal(one.gradients["down.bias"], held(both, BIAS) / 2)
    assert list(one.states) == ["momentum"]
    assert torch.equal(one.states["momentum"]["up.weight"][2:], held(both, WEIGHT, 1) + 1)


def test_a_gradient_that_no_rank_has_is_left_out_and_one_held_in_part_leaves_no_inputs():
    (inputs,), _ = collect(lambda draft: draft.drop(EXPERTS, runs=own_run(draft)))
    assert "experts" not in inputs.steps[0].gradients
    assert collect(lambda draft: draft.drop(WEIGHT, ranks=(1,), runs=own_run(draft)))[0] == ()


def test_without_updates_or_a_run_in_these_dtypes_there_are_none():
    def no_updates(draft):
        for tensor in (NEW_WEIGHT, NEW_BIAS, key(Phase.UPDATE, "experts")):
            draft.drop(tensor, reference=True)

    assert collect(no_updates)[0] == ()
    assert collect(start=False)[0] == ()
    both = collect()[1]
    without = replace(both, reference=replace(both.reference, native={}))
    assert collect_update_inputs(without, find_candidate_layout(both)) == ()


def test_without_gradients_or_with_a_parameter_held_in_part_there_are_none():
    def no_gradients(draft):
        for tensor in (WEIGHT, BIAS, EXPERTS):
            draft.drop(tensor, runs=own_run(draft))

    assert collect(no_gradients)[0] == ()
    both = collect()[1]
    start = {name: values for name, values in both.ranks[1].start.items() if name != "up.weight"}
    in_part = replace(both, ranks=[both.ranks[0], replace(both.ranks[1], start=start)])
    assert collect_update_inputs(in_part, find_candidate_layout(both)) == ()


def test_each_parameter_has_its_own_dtype_and_a_state_of_another_shape_is_left_out():
    def change(draft):
        for run in own_run(draft):
            draft.reference[run][NEW_BIAS] = draft.reference[run][NEW_BIAS].bfloat16()
            for one in draft.ranks:
                one[run][key(Phase.STATE, "up.weight/step")] = torch.tensor(1.0)

    (inputs,), _ = collect(change)
    (one,) = inputs.steps
    assert {name: values.dtype for name, values in one.gradients.items()} == {
        "up.weight": torch.float32,
        "down.bias": torch.bfloat16,
        "experts": torch.float32,
    }
    assert one.states == {"step": {}}
