"""One trial: each tensor on either side has an outcome, with counts, chance, void, and what its zeros cannot show."""

from dataclasses import replace

import pytest
import torch
from tests.proving.judging.made_up import (
    BIAS,
    COUNT,
    DOWN,
    EXPERTS,
    LOSS,
    NEW_BIAS,
    NEW_EXPERTS,
    NEW_WEIGHT,
    NORM,
    TENSORS,
    UP,
    WEIGHT,
    key,
    make_sides,
)

from shardproof.exact import NoBound
from shardproof.proving.cause import CauseKind, Part
from shardproof.proving.findings import Unbounded
from shardproof.proving.judging.alignment import ActualExpected, Alignment
from shardproof.proving.judging.judge import find_candidate_layout
from shardproof.proving.judging.layout import PADDING
from shardproof.proving.judging.outcomes import (
    Outcome,
    compare_exactly,
    drop_cancelled,
    find_blind,
    losses_first,
    own_buffers,
)
from shardproof.proving.records import Phase, Recorded, Records


def outcomes(change=None, *, own_training=False, change_records=None):
    both = make_sides(change)
    if change_records is not None:
        change_records(both.reference.trials[0].tensors, *(side.trials[0].tensors for side in both.ranks))
    alignment = Alignment(
        reference=both.reference.trials[0],
        ranks=[side.trials[0] for side in both.ranks],
        layout=find_candidate_layout(both),
        axes=both.axes,
        own_training=own_training,
    )
    return compare_exactly(alignment, both.primes[0])


def test_an_outcome_of_nothing_counted_has_counted_nothing():
    """As of a tensor without a gradient on either side."""
    nothing = Outcome(equal=True)
    assert (nothing.differing, nothing.elements, nothing.informative, nothing.ranks) == (0, 0, 0, ())
    assert (nothing.chance, nothing.constant, nothing.partial, nothing.void) == (1.0, False, False, {})


def test_every_tensor_has_one_in_execution_order():
    found = outcomes()
    assert list(found) == list(TENSORS)
    assert all(one.equal and not one.void and one.cause is None for one in found.values())
    assert {one.chance for one in found.values()} == {1e-5}


def test_a_loss_that_is_reported_late_stands_before_its_steps_gradients():
    forward, gradient, loss = (key(phase, "a") for phase in (Phase.OUTPUT, Phase.OUTPUT_GRADIENT, Phase.LOSS))
    next_forward, next_loss = key(Phase.OUTPUT, "a", step=1), key(Phase.LOSS, "a", step=1)
    late = [forward, gradient, loss, next_forward, next_loss]
    assert losses_first(late) == [forward, loss, gradient, next_forward, next_loss]
    assert losses_first([forward, loss, gradient]) == [forward, loss, gradient]


def test_a_difference_is_counted_over_all_ranks():
    def off(draft):
        draft.change(BIAS, lambda values, _run, _rank: values + torch.tensor([1, 0, 1]), ranks=(1,))

    found = outcomes(off)[BIAS]
    assert (found.equal, found.ranks, found.differing, found.elements) == (False, (1,), 2, 6)
    assert found.cause.kind is CauseKind.REPLICAS_DIFFER
    assert outcomes(off)[WEIGHT].equal


def test_a_zero_of_the_reference_is_not_informative():
    def zero(draft):
        draft.change_both(BIAS, lambda values, _run: values * torch.tensor([0, 1, 1]))

    found = outcomes(zero)[BIAS]
    assert (found.informative, found.elements, found.equal) == (4, 6, True)


@pytest.mark.parametrize(("chance", "constant"), [(0.0, True), (1e-300, False)])
def test_chance_zero_is_a_constant(chance, constant):
    def certain(draft):
        draft.chance = chance

    assert outcomes(certain)[BIAS].constant is constant


@pytest.mark.parametrize("side", [0, 1, 2])
def test_the_worst_chance_of_either_side_counts_and_why_there_is_none(side):
    def lose(*tensors):
        tensors[side][BIAS] = replace(tensors[side][BIAS], chance=1.0, no_bound=NoBound.DEPTH)
        tensors[side][WEIGHT] = replace(tensors[side][WEIGHT], chance=1e-3)

    found = outcomes(change_records=lose)
    assert (found[BIAS].chance, found[BIAS].unbounded) == (1.0, Unbounded(reason=NoBound.DEPTH, at=BIAS))
    assert (found[WEIGHT].chance, found[WEIGHT].unbounded) == (1e-3, None)


def test_another_shape_is_the_cause_whatever_the_values_are():
    found = outcomes(lambda draft: draft.change(LOSS, lambda values, *_: values.expand(2), ranks=(1,)))[LOSS]
    assert (found.equal, found.cause.kind, found.cause.shapes) == (False, CauseKind.MISSHAPEN, ((2,), ()))
    assert (found.ranks, found.chance) == ((0, 1), 1e-5)


def test_the_buffers_that_the_reference_has_not_are_named_and_those_that_a_rank_lacks_are_gone():
    own, also, held = (key(Phase.BUFFER, name) for name in ("own", "also", "held"))

    def change(reference, first, second):
        reference[held] = first[held] = first[own] = second[also] = first[LOSS]

    found = outcomes(change_records=change)
    assert found.keys() & {own, also, held} == {held}
    assert (found[held].cause.kind, found[held].cause.ranks) == (CauseKind.BUFFER_GONE, (1,))
    value = Recorded(stored=torch.ones(1))
    records = [Records(tensors=dict.fromkeys(keys, value)) for keys in ([held, LOSS], [held, own, UP], [also])]
    assert own_buffers(records[0], records[1:]) == ("also", "own")


def test_a_void_element_counts_neither_for_nor_against():
    def void(draft):
        draft.spoil(BIAS)
        draft.divide_by_zero(BIAS, 1, ranks=(1,), reference=False)

    found = outcomes(void)
    assert [tensor for tensor, one in found.items() if one.void] == [BIAS]
    assert {rank: one.actual.tolist() for rank, one in found[BIAS].void.items()} == {1: [False, True, False]}
    assert not found[BIAS].void[1].expected.any()
    assert (found[BIAS].differing, found[BIAS].elements, found[BIAS].chance) == (5, 6, 1e-5)


@pytest.mark.parametrize(("reference", "judged"), [(True, True), (False, False)])
def test_a_trial_says_nothing_of_steps_after_an_update_that_is_void_on_one_side_alone(reference, judged):
    same, later = key(Phase.LOSS, "loss"), key(Phase.LOSS, "loss", step=1)

    def void(draft):
        draft.divide_by_zero(NEW_BIAS, 1, reference=reference)

    def differ_later(first_device, *ranks):
        first_device[later] = first_device[same]
        for rank in ranks:
            rank[later] = replace(rank[same], stored=rank[same].values + 1)

    found = outcomes(void, change_records=differ_later)
    assert found[same].equal
    assert not found[same].void
    assert found[later].equal is not judged
    assert all(bool(one.either.all()) for one in found[later].void.values())
    assert bool(found[later].void) is not judged


def test_elements_beside_a_void_one_may_be_equal():
    def void(draft):
        draft.divide_by_zero(BIAS, 1)

    found = outcomes(void)[BIAS]
    assert (found.equal, found.differing, found.informative) == (True, 0, 4)
    assert found.void[0].either.tolist() == [False, True, False]


def test_an_activation_may_be_partial_and_a_gradient_may_not():
    def part(draft):
        draft.part(DOWN)
        draft.part(BIAS)

    found = outcomes(part)
    assert (found[DOWN].equal, found[DOWN].partial_over, found[DOWN].differing) == (True, ("tp",), 0)
    assert (found[BIAS].equal, found[BIAS].partial_over) == (False, ())


def test_activations_are_not_looked_through_for_zeros():
    def zero(draft):
        for tensor in (DOWN, EXPERTS):
            draft.change_both(tensor, lambda values, _run: values * 0)

    found = outcomes(zero)
    assert found[DOWN].blind == frozenset()
    assert found[EXPERTS].blind == {Part(rank=0), Part(rank=1)}


@pytest.mark.parametrize(
    ("own_training", "dropped", "kind"),
    [
        (False, key(Phase.CLIPPED, "down.bias"), CauseKind.NOT_COVERED),
        (True, key(Phase.CLIPPED, "down.bias"), None),
        (False, key(Phase.STATE, "down.bias/exp_avg"), CauseKind.NOT_COVERED),
        (True, key(Phase.STATE, "down.bias/exp_avg"), None),
        (False, NEW_WEIGHT, CauseKind.NOT_COVERED),
        (True, NEW_WEIGHT, CauseKind.NOT_COVERED),
        (True, LOSS, CauseKind.NOT_COMPUTED),
        (False, NORM, CauseKind.NOT_COMPUTED),
        (False, UP, None),
    ],
)
def test_what_a_training_of_the_users_own_need_not_report(own_training, dropped, kind):
    def drop(draft):
        for run in draft.runs:
            draft.reference[run].setdefault(dropped, torch.ones(3, dtype=torch.int64))
        draft.drop(dropped)

    found = outcomes(drop, own_training=own_training)
    assert (dropped in found) is (kind is not None)
    assert kind is None or found[dropped].cause.kind is kind


def first_of_all(tensor, *holders):
    """Record a tensor of ones before all others."""
    for held in holders:
        for run, tensors in held.items():
            held[run] = {tensor: torch.ones(3, dtype=tensors[BIAS].dtype), **tensors}


@pytest.mark.parametrize("ranks", [(0,), (1,), (0, 1)])
def test_a_norm_need_not_be_reported_where_any_rank_reports_clipped_gradients(ranks):
    """As of a pipeline, whose other ranks hold other parameters."""
    clipped = key(Phase.CLIPPED, "down.bias")

    def change(draft):
        first_of_all(clipped, draft.reference, *(draft.ranks[rank] for rank in ranks))
        draft.drop(NORM)

    assert NORM not in outcomes(change, own_training=True)
    assert outcomes(lambda draft: draft.drop(NORM), own_training=True)[NORM].cause.kind is CauseKind.NOT_COMPUTED


@pytest.mark.parametrize("skipped", ["own buffer", "clipped gradient", "gradient norm"])
def test_what_is_not_compared_hides_nothing_behind_it(skipped):
    buffer, clipped = key(Phase.BUFFER, "own"), key(Phase.CLIPPED, "down.bias")

    def change(draft):
        if skipped == "own buffer":
            first_of_all(buffer, *draft.ranks)
        elif skipped == "clipped gradient":
            first_of_all(clipped, draft.reference)
        else:
            first_of_all(clipped, draft.reference, *draft.ranks)
            draft.drop(NORM)
        draft.drop(NEW_WEIGHT)

    found = outcomes(change, own_training=True)
    assert found[NEW_WEIGHT].cause.kind is CauseKind.NOT_COVERED
    left_out = {"own buffer": buffer, "clipped gradient": clipped, "gradient norm": NORM}[skipped]
    assert left_out not in found
    assert found[BIAS].equal


def test_state_is_asked_for_if_any_is_reported():
    first, second = (key(Phase.STATE, f"{name}/exp_avg") for name in ("down.bias", "experts"))

    def report_one(draft):
        for run in draft.runs:
            draft.reference[run] |= {first: torch.ones(3), second: torch.ones(3, 2, 2)}
        for rank in draft.ranks:
            for held in rank.values():
                held[first] = torch.ones(3)

    found = outcomes(report_one, own_training=True)
    assert found[first].equal
    assert found[second].cause.kind is CauseKind.NOT_COVERED


# Parts that nothing reached -------------------------------------------------------------------------------------------


def blind(expected, index=None):
    expected = torch.tensor(expected)
    index = None if index is None else torch.tensor(index)
    return find_blind({0: ActualExpected(actual=expected, expected=expected, element_index=index)})


@pytest.mark.parametrize(
    ("expected", "index", "parts"),
    [
        ([0, 0], None, {Part(rank=0)}),
        ([0, 1], None, set()),
        ([0, 1], [0, PADDING], {Part(rank=0)}),
        ([0, 0], [PADDING, PADDING], set()),
        ([[0, 0], [1, 1]], None, set()),  # rows of a table that no token hits are said of the whole
        ([[[0], [0]], [[1], [0]]], None, {Part(rank=0, index=0)}),
        ([[[0], [0]], [[0], [0]]], None, {Part(rank=0)}),
        ([[[0], [0]], [[1], [0]]], [[[PADDING], [PADDING]], [[0], [1]]], set()),
        ([[[0], [1]], [[1], [0]]], [[[0], [PADDING]], [[2], [3]]], {Part(rank=0, index=0)}),
    ],
)
def test_ranks_and_slices_of_zeros_are_found_and_padding_is_none(expected, index, parts):
    assert blind(expected, index) == parts


@pytest.mark.parametrize(
    ("expected", "kept"),
    [
        ([[[0.0]], [[1.0]]], True),  # nothing reached it here either
        ([[[1e-3]], [[1.0]]], True),  # it was reached here alone
        ([[[-1e-9]], [[1.0]]], False),
        ([[[float("nan")]], [[1.0]]], True),
    ],
)
def test_a_part_that_is_rounding_noise_here_cancels(expected, kept):
    expected, part = torch.tensor(expected), Part(rank=0, index=0)
    held = {0: ActualExpected(actual=expected, expected=expected)}
    elsewhere = Part(rank=1, index=0)
    assert drop_cancelled(held, frozenset({part, elsewhere}), 1e-6) == ({part} if kept else set())
    assert drop_cancelled(held, frozenset({Part(rank=0)}), 2.0) == ({Part(rank=0)} if expected.isnan().any() else set())


@pytest.mark.parametrize(
    ("actual", "expected", "kept"),
    [
        (1e-9, 0.0, False),  # 0 by luck on one side
        (0.0, 1e-9, False),
        (0.0, 0.0, True),
        (1e-3, 0.0, True),  # another routing on one side
        (1e-3, 1e-9, True),
        (float("nan"), 1e-9, True),
    ],
)
def test_a_part_cancels_that_is_noise_on_one_side_and_zero_on_the_other(actual, expected, kept):
    held = {0: ActualExpected(actual=torch.tensor([actual]), expected=torch.tensor([expected]))}
    part = Part(rank=0)
    assert drop_cancelled(held, frozenset({part}), 1e-6) == ({part} if kept else set())


@pytest.mark.parametrize("updates", [False, True])
def test_a_buffer_is_asked_for_where_updates_are_reported(updates):
    """It is recorded with an update; that an update is missing is said of the parameters."""

    def drop(draft):
        for tensor in (COUNT, *(() if updates else (NEW_WEIGHT, NEW_BIAS, NEW_EXPERTS))):
            draft.drop(tensor)

    found = outcomes(drop, own_training=True)
    assert (COUNT in found) is updates
    assert not updates or found[COUNT].cause.kind is CauseKind.BUFFER_GONE
    assert updates or found[NEW_WEIGHT].cause.kind is CauseKind.NOT_COVERED


def test_a_tensor_without_elements_is_equal_and_not_void():
    empty = key(Phase.BUFFER, "empty")

    def add(reference, *ranks):
        for tensors in (reference, *ranks):
            tensors[empty] = Recorded(stored=torch.zeros(0, dtype=torch.int64))

    found = outcomes(change_records=add)[empty]
    assert (found.equal, found.elements, found.void) == (True, 0, {})


@pytest.mark.parametrize(
    ("modules", "own_training", "lacking"),
    [(set(), True, ()), ({""}, True, (1,)), (set(), False, (1,))],
)
def test_a_buffer_is_gone_only_where_a_rank_holds_its_module(modules, own_training, lacking):
    both = make_sides()
    for side in both.ranks:
        side.trials[0].modules.update(modules)
    del both.ranks[1].trials[0].tensors[COUNT]
    alignment = Alignment(
        reference=both.reference.trials[0],
        ranks=[side.trials[0] for side in both.ranks],
        layout=find_candidate_layout(both),
        axes=both.axes,
        own_training=own_training,
    )
    found = compare_exactly(alignment, both.primes[0])[COUNT]
    assert found.equal is not bool(lacking)
    if lacking:
        assert (found.cause.kind, found.cause.ranks) == (CauseKind.BUFFER_GONE, lacking)
    del both.ranks[0].trials[0].tensors[COUNT]  # then it is nowhere, whatever the ranks hold
    assert compare_exactly(alignment, both.primes[0])[COUNT].cause.ranks == (0, 1)


def test_tensors_of_stages_are_in_the_order_of_one_device():
    """The first rank has the last layer, so that its tensors are recorded first in each step."""
    both = make_sides()
    of_first = {DOWN, BIAS, NEW_BIAS}
    for rank, side in enumerate(both.ranks):
        tensors = side.trials[0].tensors
        for one in [one for one in tensors if one in TENSORS and one not in (LOSS, NORM)]:
            if (one in of_first) == bool(rank):
                del tensors[one]
    alignment = Alignment(
        reference=both.reference.trials[0],
        ranks=[side.trials[0] for side in both.ranks],
        layout=find_candidate_layout(both),
        axes=both.axes,
        own_training=True,
    )
    found = [one for one in compare_exactly(alignment, both.primes[0]) if one.step == 0]
    expected = [one for one in both.reference.trials[0].tensors if one.step == 0 and one in found]
    assert [one for one in found if one in expected] == expected
