"""Beside each rank's elements stand those that it should hold; what cannot be compared says why."""

import pytest
import torch

from shardproof.exact import VOID
from shardproof.proving.axes import Axes
from shardproof.proving.cause import CauseKind
from shardproof.proving.judging.alignment import ActualExpected, Aligned, Alignment
from shardproof.proving.judging.layout import PADDING, find_layout
from shardproof.proving.records import Key, Phase, Recorded, Records

W = torch.arange(1.0, 7.0, dtype=torch.float64).view(3, 2)
FULL = {"w": W, "b": torch.tensor([9.0, 8.0], dtype=torch.float64)}
HELD = {  # the second rank's rows of w are padded to as many as the first one's
    "w": {0: W[:2], 1: torch.cat([W[2:], torch.zeros(1, 2, dtype=torch.float64)])},
    "b": {0: FULL["b"], 1: FULL["b"]},
}
GRADIENT, OUTPUT, LOSS = Key(0, Phase.GRADIENT, "w"), Key(0, Phase.OUTPUT, "m"), Key(0, Phase.LOSS, "loss")


def recorded(values):
    return Recorded(stored=torch.as_tensor(values))


def make_alignment(reference, *ranks, axes=None, missing=(), frozen=(), own_training=False, full=FULL, parameters=HELD):
    sides = [Records(tensors={key: recorded(one) for key, one in held.items()}) for held in (reference, *ranks)]
    for rank in missing:
        sides[1 + rank].missing.append(GRADIENT)
    for rank in frozen:
        sides[1 + rank].frozen.append(GRADIENT)
    return Alignment(
        reference=sides[0],
        ranks=sides[1:],
        layout=find_layout(full, parameters),
        axes=axes or Axes(sizes={"tp": 2}),
        own_training=own_training,
    )


WHOLE = torch.tensor([[10, 11], [12, 13], [14, 15]])
UPPER, LOWER = WHOLE[:2], torch.cat([WHOLE[2:], torch.tensor([[7, 7]])])


def test_a_gradient_lies_as_its_parameter_and_padding_should_be_zero():
    aligned = make_alignment({GRADIENT: WHOLE}, {GRADIENT: UPPER}, {GRADIENT: LOWER}).of(GRADIENT)
    assert aligned.held[0].expected.tolist() == UPPER.tolist()
    assert aligned.held[1].actual.tolist() == LOWER.tolist() == [[14, 15], [7, 7]]
    assert aligned.held[1].expected.tolist() == [[14, 15], [0, 0]]
    assert aligned.held[1].element_index.tolist() == [[4, 5], [PADDING, PADDING]]
    assert len(aligned.involved) == 3


def test_the_whole_in_place_of_a_shard_is_compared_with_the_whole():
    key = Key(1, Phase.UPDATE, "w")
    aligned = make_alignment({key: WHOLE}, {key: WHOLE}, {key: WHOLE + 1}).of(key)
    assert [held.expected.tolist() for held in aligned.held.values()] == [WHOLE.tolist()] * 2
    assert aligned.misshapen is None
    assert aligned.held[1].actual.tolist() == (WHOLE + 1).tolist()
    assert make_alignment({key: WHOLE}, {key: WHOLE[:1]}, {}).of(key).misshapen is not None


def test_optimizer_state_lies_as_its_parameter_too():
    key = Key(1, Phase.STATE, "w/exp_avg")
    aligned = make_alignment({key: WHOLE}, {key: UPPER}, {}).of(key)
    assert list(aligned.held) == [0]
    assert aligned.held[0].expected.tolist() == UPPER.tolist()


def test_padding_is_no_element_that_one_device_lacks():
    """The first element of the full state, where padding points to, is of a parameter without a gradient."""
    full = {"b": FULL["b"], "w": W}
    alignment = make_alignment({GRADIENT: WHOLE}, {GRADIENT: UPPER}, {GRADIENT: LOWER}, full=full)
    aligned = alignment.of(GRADIENT)
    assert aligned.fault is None
    assert aligned.held[1].expected.tolist() == [[14, 15], [0, 0]]
    for ranks in (({GRADIENT: UPPER}, {}), ({}, {GRADIENT: LOWER})):
        assert make_alignment({}, *ranks).of(GRADIENT).fault.kind is CauseKind.EXTRA_GRADIENT
        others = {Key(0, Phase.GRADIENT, "b"): torch.ones(2, dtype=torch.int64)}
        assert make_alignment(others, *ranks, full=full).of(GRADIENT).fault.kind is CauseKind.EXTRA_GRADIENT


def test_rows_in_an_order_of_their_own_are_not_the_whole_parameter_as_it_is():
    held = HELD | {"w": dict.fromkeys((0, 1), W[[1, 0, 2]])}
    ranks = [{GRADIENT: WHOLE[[1, 0, 2]]}] * 2
    aligned = make_alignment({GRADIENT: WHOLE}, *ranks, parameters=held).of(GRADIENT)
    assert [one.expected.tolist() for one in aligned.held.values()] == [WHOLE[[1, 0, 2]].tolist()] * 2


def test_a_parameter_of_the_candidate_alone_has_no_shape_but_its_own():
    flat, gradient = torch.cat([W.reshape(-1), FULL["b"]]), Key(0, Phase.GRADIENT, "flat")
    reference = {GRADIENT: WHOLE, Key(0, Phase.GRADIENT, "b"): torch.tensor([16, 17])}
    parameters = {"flat": {0: flat[:4], 1: flat[4:]}}
    ranks = [{gradient: torch.arange(10, 14)}, {gradient: torch.arange(14, 17)}]
    aligned = make_alignment(reference, *ranks, parameters=parameters).of(gradient)
    assert [one.expected.tolist() for one in aligned.held.values()] == [[10, 11, 12, 13], [14, 15, 16, 17]]
    assert aligned.misshapen is aligned.held[1]


def test_a_gradient_that_one_device_has_not_is_a_fault():
    aligned = make_alignment({}, {GRADIENT: UPPER}, {GRADIENT: LOWER}).of(GRADIENT)
    assert (aligned.held, aligned.fault.kind) == ({}, CauseKind.EXTRA_GRADIENT)


def test_a_state_of_a_parameter_that_trains_without_it_on_one_device_is_not_in_the_reference():
    state = Key(0, Phase.STATE, f"{GRADIENT.name}/momentum_buffer")
    for reference, kind in (
        ({GRADIENT: torch.cat([UPPER, LOWER])}, CauseKind.NOT_IN_REFERENCE),
        ({}, CauseKind.EXTRA_GRADIENT),
    ):
        aligned = make_alignment(reference, {state: UPPER}, {state: LOWER}).of(state)
        assert (aligned.held, aligned.fault.kind) == ({}, kind)


@pytest.mark.parametrize(
    ("phase", "frozen", "kind"),
    [
        (Phase.GRADIENT, True, CauseKind.UNFROZEN),
        (Phase.GRADIENT, False, CauseKind.EXTRA_GRADIENT),
        (Phase.UPDATE, True, CauseKind.EXTRA_GRADIENT),
    ],
)
def test_a_gradient_of_what_is_frozen_on_one_device_is_unfrozen(phase, frozen, kind):
    key = Key(0, phase, "w")
    alignment = make_alignment({}, {key: UPPER}, {key: LOWER})
    alignment.reference.frozen.extend([GRADIENT] * frozen)
    assert alignment.of(key).fault.kind is kind


@pytest.mark.parametrize(("key", "kind"), [(LOSS, CauseKind.NOT_IN_REFERENCE), (OUTPUT, None)])
def test_what_the_reference_has_not_is_a_fault_unless_it_is_an_activation(key, kind):
    aligned = make_alignment({}, {key: 1.0}, {key: 1.0}).of(key)
    assert (aligned and aligned.fault.kind) == kind


def test_an_activation_is_cut_as_the_ranks_hold_it_and_one_that_fits_nothing_is_left_out():
    whole = torch.arange(4)
    aligned = make_alignment({OUTPUT: whole}, {OUTPUT: whole[:2]}, {OUTPUT: whole[2:]}).of(OUTPUT)
    assert [one.expected.tolist() for one in aligned.held.values()] == [[0, 1], [2, 3]]
    assert make_alignment({OUTPUT: whole}, {OUTPUT: whole[:3]}, {OUTPUT: whole[2:]}).of(OUTPUT) is None


@pytest.mark.parametrize(
    ("settings", "compared"),
    [
        ({}, True),
        ({"own_training": True}, False),
        ({"axes": Axes(sizes={"dp": 2}, data=("dp",))}, False),
    ],
)
def test_a_number_that_a_module_returns_may_be_a_share(settings, compared):
    alignment = make_alignment({OUTPUT: 1.0, LOSS: 1.0}, {OUTPUT: 1.0, LOSS: 1.0}, {OUTPUT: 1.0, LOSS: 1.0}, **settings)
    assert (alignment.of(OUTPUT) is not None) is compared
    assert alignment.of(LOSS) is not None


def test_a_loss_is_held_by_every_rank_whole():
    aligned = make_alignment({LOSS: 1.0}, {LOSS: 2.0}, {LOSS: 1.0}).of(LOSS)
    assert [(float(one.actual), float(one.expected)) for one in aligned.held.values()] == [(2.0, 1.0), (1.0, 1.0)]
    shards = make_alignment({LOSS: torch.arange(4)}, {LOSS: torch.arange(2)}, {LOSS: torch.arange(2, 4)})
    assert shards.of(LOSS).misshapen is not None


@pytest.mark.parametrize(
    ("ranks", "lacking", "covered"),
    [
        (({GRADIENT: UPPER}, {GRADIENT: LOWER}), {}, True),
        (({GRADIENT: UPPER}, {}), {}, False),
        (({}, {GRADIENT: LOWER}), {}, False),
        (({GRADIENT: UPPER}, {}), {"missing": (1,)}, True),  # a finding of its own
        (({GRADIENT: UPPER}, {}), {"frozen": (1,)}, True),
        (({GRADIENT: UPPER}, {}), {"frozen": (0,)}, False),
        (({}, {}), {}, False),
    ],
)
def test_a_tensor_is_covered_if_every_element_is_held_or_said_to_be_missing(ranks, lacking, covered):
    alignment = make_alignment({GRADIENT: WHOLE}, *ranks, **lacking)
    assert alignment.covers(GRADIENT) is covered
    assert alignment.covers(Key(0, Phase.GRADIENT, "of the candidate alone"))


def test_a_gradient_is_lacking_where_a_rank_with_elements_of_it_says_so():
    found = make_alignment({GRADIENT: WHOLE}, {}, {GRADIENT: LOWER}, missing=(0,)).fault_of_missing(GRADIENT)
    assert found.kind is CauseKind.MISSING_GRADIENT
    assert make_alignment({GRADIENT: WHOLE}, {GRADIENT: UPPER}, {GRADIENT: LOWER}).fault_of_missing(GRADIENT) is None
    for how in ({"missing": (1,)}, {"frozen": (1,)}):
        alignment = make_alignment({GRADIENT: WHOLE}, {GRADIENT: UPPER}, {}, **how)
        assert alignment.fault_of_missing(GRADIENT) is not None
        alignment.layout.element_index["w"][1].fill_(PADDING)
        assert alignment.fault_of_missing(GRADIENT) is None


def test_parts_of_a_flat_buffer_stand_in_for_gradients_that_are_given_up():
    """As ZeRO's second stage has it: the buffer's parts hold the gradients, the model's parameters none."""
    flat = torch.cat([FULL["b"], W.flatten()])
    part, whole = Key(0, Phase.GRADIENT, "part"), {GRADIENT: WHOLE, Key(0, Phase.GRADIENT, "b"): torch.ones(2)}
    parameters = {"w": {0: W, 1: W}, "part": {0: flat[:4], 1: flat[4:]}}

    def fault(*ranks):
        alignment = make_alignment(whole, *ranks, missing=(0, 1), parameters=parameters)
        return alignment.fault_of_missing(GRADIENT)

    assert fault({part: torch.ones(4)}, {part: torch.ones(4)}) is None
    for ranks in (({part: torch.ones(4)}, {}), ({}, {part: torch.ones(4)}), ({}, {})):
        assert fault(*ranks).kind is CauseKind.MISSING_GRADIENT
    tied = {"w": {0: W}, "head": {1: W}}  # what is tied to it stands for itself alone
    ranks = ({}, {Key(0, Phase.GRADIENT, "head"): WHOLE})
    found = make_alignment(whole, *ranks, missing=(0,), parameters=tied).fault_of_missing(GRADIENT)
    assert found.kind is CauseKind.MISSING_GRADIENT


@pytest.mark.parametrize(
    ("reference", "ranks", "kind"),
    [
        ("missing", "missing", CauseKind.NO_GRADIENT),
        ("frozen", "frozen", None),
        ("missing", "frozen", CauseKind.FROZEN),
        ("frozen", "missing", CauseKind.UNFROZEN),
    ],
)
def test_without_a_gradient_on_either_side_both_have_to_be_frozen(reference, ranks, kind):
    alignment = make_alignment({}, {}, {}, **{ranks: (0, 1)})
    getattr(alignment.reference, reference).append(GRADIENT)
    fault = alignment.fault_of_missing(GRADIENT)
    assert (fault and fault.kind) == kind


def test_a_parameter_that_another_step_reaches_has_a_gradient():
    later = Key(1, Phase.GRADIENT, "w")
    alignment = make_alignment({later: WHOLE}, {later: UPPER}, {later: LOWER}, missing=(0, 1))
    alignment.reference.missing.append(GRADIENT)
    assert alignment.fault_of_missing(GRADIENT) is None


@pytest.mark.parametrize(
    ("others", "step", "kind"),
    [
        ([Key(0, Phase.GRADIENT, "b"), Key(0, Phase.UPDATE, "w")], 0, CauseKind.NO_GRADIENT),
        ([Key(1, Phase.GRADIENT, "w")], 0, None),
        ([], 1, None),  # it has been told of the first step
    ],
)
def test_no_gradient_in_any_step_is_told_of_the_first(others, step, kind):
    gradient = Key(step, Phase.GRADIENT, "w")
    alignment = make_alignment(dict.fromkeys(others, torch.ones(1)), {}, {})
    for records in (alignment.reference, *alignment.ranks):
        records.missing.append(gradient)
    fault = alignment.fault_of_missing(gradient)
    assert (fault and fault.kind) == kind


def test_a_buffer_may_be_held_in_shards():
    buffer = Key(0, Phase.BUFFER, "m.count")
    aligned = make_alignment({buffer: torch.arange(4)}, {buffer: torch.arange(2)}, {buffer: torch.arange(2, 4)}).of(
        buffer
    )
    assert [one.expected.tolist() for one in aligned.held.values()] == [[0, 1], [2, 3]]
    assert (
        make_alignment({buffer: torch.arange(4)}, {buffer: torch.arange(3)}, {buffer: torch.arange(2)})
        .of(buffer)
        .misshapen
    )


def test_the_first_rank_of_another_shape_is_the_misshapen_one():
    right = ActualExpected(actual=torch.zeros(2), expected=torch.zeros(2))
    wrong = ActualExpected(actual=torch.zeros(2, 1), expected=torch.zeros(2))
    assert Aligned(held={0: right, 1: wrong}, involved=[]).misshapen is wrong
    assert Aligned(held={0: right}, involved=[]).misshapen is None


def test_elements_that_are_void_on_either_side_are_judged_as_zeros():
    one = ActualExpected(actual=torch.tensor([VOID, 2, 3]), expected=torch.tensor([1, VOID, 4]))
    assert (one.judged.actual.tolist(), one.judged.expected.tolist()) == ([0, 0, 3], [0, 0, 4])
    without = ActualExpected(actual=torch.tensor([1, 2]), expected=torch.tensor([1, 3]))
    assert without.judged is without


@pytest.mark.parametrize(("calls", "compared"), [((4, 4), True), ((4, 0), True), ((2, 2), False), ((4, 2), False)])
def test_calls_of_a_module_are_compared_where_each_rank_calls_it_as_often(calls, compared):
    """A rank calls what its own experts share once for each of them."""
    keys = [Key(0, Phase.OUTPUT, "m", call) for call in range(4)]
    sides = [dict.fromkeys(keys[:count], WHOLE) for count in (4, *calls)]
    alignment = make_alignment(*sides)
    assert (alignment.of(keys[0]) is not None) is compared
    assert (alignment.number_elements(keys[0]) is not None) is compared
    assert alignment.of(Key(1, Phase.OUTPUT, "m")) is None


@pytest.mark.parametrize(
    ("calls", "own_training", "compared"),
    [(2, True, True), (2, False, False), (3, True, False), (1, True, True)],
)
def test_microbatches_of_a_stage_are_rows_of_one_call(calls, own_training, compared):
    """The second rank has no such module."""
    parts = {
        Key(0, Phase.OUTPUT, "m", call): rows for call, rows in enumerate(WHOLE.chunk(2) if calls > 1 else [WHOLE])
    }
    parts |= {Key(0, Phase.OUTPUT, "m", 2): WHOLE.sum()} if calls == 3 else {}
    alignment = make_alignment({OUTPUT: WHOLE}, parts, {}, own_training=own_training)
    aligned = alignment.of(OUTPUT)
    assert (aligned is not None) is compared
    if aligned is not None:
        assert list(aligned.held) == [0]
        assert torch.equal(aligned.held[0].actual, aligned.held[0].expected)
        assert len(aligned.involved) == calls + 1
    assert alignment.of(Key(0, Phase.OUTPUT, "m", 1)) is None


def test_microbatches_of_which_ranks_have_another_number_are_left_out():
    parts = {Key(0, Phase.OUTPUT, "m", call): rows for call, rows in enumerate(WHOLE.chunk(2))}
    one = {**parts, Key(0, Phase.OUTPUT, "m", 2): WHOLE[:1]}
    assert make_alignment({OUTPUT: WHOLE}, parts, one, own_training=True).of(OUTPUT) is None
