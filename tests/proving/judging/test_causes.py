"""Each relation is named where it explains every element, exactly and within noise, and not where one element is off.

The relations are tested on what ranks hold of one tensor, without a model or a run.
"""

from fractions import Fraction

import pytest
import torch

from shardproof.proving.axes import Axes
from shardproof.proving.cause import CauseKind, Mend
from shardproof.proving.judging.alignment import ActualExpected
from shardproof.proving.judging.causes import (
    RELATIONS,
    axes_of_sum,
    common_factor,
    explain,
    missing_reduction,
    shard_order,
    sum_is_right,
)
from shardproof.proving.judging.closeness import Exact, WithinNoise
from shardproof.proving.judging.difference import Difference
from shardproof.proving.judging.layout import PADDING
from shardproof.proving.records import Phase

PRIME = 2_097_143
TP = Axes(sizes={"tp": 2})
DP_TP = Axes(sizes={"dp": 2, "tp": 2}, data=("dp",))
COMPARISONS = {"exact": Exact(PRIME), "within noise": WithinNoise(1e-3)}


@pytest.fixture(params=COMPARISONS)
def closeness(request):
    return COMPARISONS[request.param]


def values(closeness, *shape, seed=0):
    """Random values with which no relation holds by chance."""
    generator = torch.Generator().manual_seed(seed)
    if closeness.approximate:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)
    return closeness.canonical(torch.randint(1, PRIME, shape, generator=generator))


def parts_of(closeness, whole, count):
    """As many tensors whose sum it is."""
    parts = [values(closeness, *whole.shape, seed=seed) for seed in range(1, count)]
    return [*parts, closeness.canonical(whole - sum(parts))]


def difference(closeness, actual, expected, *, axes=TP, phase=Phase.GRADIENT, index=None):
    """Of ranks that hold and should hold these; one `expected` for replicas, or a list of shards."""
    expected = expected if isinstance(expected, list) else [expected] * len(actual)
    index = index or [None] * len(actual)
    held = {
        rank: ActualExpected(actual=own, expected=wanted, element_index=at)
        for rank, (own, wanted, at) in enumerate(zip(actual, expected, index, strict=True))
    }
    return Difference(phase=phase, held=held, axes=axes, closeness=closeness)


def off_by_one_element(tensor, closeness):
    """The tensor with one element moved by more than noise."""
    moved = tensor.clone()
    moved.view(-1)[-1] += 1
    return closeness.canonical(moved)


# Missing reductions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phase", "mend"),
    [
        (Phase.GRADIENT, Mend.ALL_REDUCE_GRADIENT),
        (Phase.OUTPUT, Mend.ALL_REDUCE_IN_FORWARD),
        (Phase.OUTPUT_GRADIENT, Mend.ALL_REDUCE_IN_BACKWARD),
        (Phase.LOSS, None),
    ],
)
def test_partial_values_are_a_missing_all_reduce(closeness, phase, mend):
    whole = values(closeness, 3, 4)
    cause = explain(difference(closeness, parts_of(closeness, whole, 2), whole, phase=phase))
    assert (cause.kind, cause.axes, cause.mend) == (CauseKind.MISSING_ALL_REDUCE, ("tp",), mend)
    assert cause.approximate is closeness.approximate


def test_partial_values_whose_sum_is_off_by_one_element_are_not(closeness):
    whole = values(closeness, 3, 4)
    first, second = parts_of(closeness, whole, 2)
    assert explain(difference(closeness, [first, off_by_one_element(second, closeness)], whole)) is None


def test_elements_that_all_ranks_have_right_need_no_sum(closeness):
    whole = values(closeness, 2, 4)
    parts = parts_of(closeness, whole, 2)
    for part in parts:
        part[0] = whole[0]
    cause = explain(difference(closeness, parts, whole))
    assert cause.kind is CauseKind.MISSING_ALL_REDUCE


@pytest.mark.parametrize(("along", "names"), [(((0, 1), (2, 3)), ("tp",)), (((0, 2), (1, 3)), ("dp",))])
def test_the_axis_of_the_sum_is_the_one_along_which_parts_lie(closeness, along, names):
    whole = values(closeness, 3)
    actual = [None] * 4
    for number, group in enumerate(along):
        parts = [values(closeness, 3, seed=7 + number)]
        parts.append(closeness.canonical(whole - parts[0]))
        for rank, part in zip(group, parts, strict=True):
            actual[rank] = part
    found = difference(closeness, actual, whole, axes=DP_TP)
    assert axes_of_sum(found) == names
    assert explain(found).axes == names


def test_a_sum_over_both_axes_is_over_both(closeness):
    whole = values(closeness, 3)
    found = difference(closeness, parts_of(closeness, whole, 4), whole, axes=DP_TP)
    assert axes_of_sum(found) == ("dp", "tp")
    assert not sum_is_right(found, ("tp",))


def test_values_of_their_own_along_a_data_axis_are_a_missing_average(closeness):
    whole = values(closeness, 3, 4)
    own = [values(closeness, 3, 4, seed=9)]
    own.append(closeness.canonical(whole * 2 - own[0]))
    actual = [own[0], own[0], own[1], own[1]]
    cause = explain(difference(closeness, actual, whole, axes=DP_TP))
    assert (cause.kind, cause.axes, cause.mend) == (CauseKind.MISSING_AVERAGE, ("dp",), Mend.AVERAGE_GRADIENT)
    assert explain(difference(closeness, [own[0], own[1], own[0], own[1]], whole, axes=DP_TP)) is None  # along tp
    found = explain(difference(closeness, own, whole, axes=TP))  # no axis is one of data
    assert (found.kind, found.axes) == (CauseKind.MISSING_AVERAGE, ("tp",))
    assert explain(difference(closeness, [off_by_one_element(own[0], closeness), own[1]], whole, axes=TP)) is None


def test_parts_of_overlapping_shards_are_summed_by_element(closeness):
    """Rank 0 holds elements 0 to 2, rank 1 elements 2 to 4 and padding: they share element 2 alone."""
    whole = values(closeness, 5)
    index = [torch.tensor([0, 1, 2]), torch.tensor([2, 3, 4, PADDING])]
    expected = [whole[:3], torch.cat([whole[2:], whole.new_zeros(1)])]
    part = values(closeness, 1, seed=3)
    actual = [one.clone() for one in expected]
    actual[0][2:], actual[1][:1] = part, closeness.canonical(whole[2:3] - part)
    assert explain(difference(closeness, actual, expected, index=index)).kind is CauseKind.MISSING_ALL_REDUCE
    actual[0][0] = actual[0][0] + 1
    assert explain(difference(closeness, actual, expected, index=index)) is None


def test_shards_of_different_elements_sum_up_to_nothing(closeness):
    whole = values(closeness, 4)
    found = difference(closeness, [whole[2:], whole[:2]], [whole[:2], whole[2:]], axes=TP)
    assert not sum_is_right(found, ("tp",))


def test_one_rank_alone_has_no_sum_to_miss(closeness):
    whole = values(closeness, 3)
    along_tp = difference(closeness, [off_by_one_element(whole, closeness)], whole)  # the other holds nothing of it
    assert axes_of_sum(along_tp) == ()
    assert missing_reduction(along_tp) is None
    found = difference(closeness, [off_by_one_element(whole, closeness)], whole, axes=Axes(sizes={"tp": 1}))
    assert missing_reduction(found) is None


# Factors --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [Fraction(2), Fraction(16), Fraction(1, 2), Fraction(1, 12)])
def test_one_factor_of_all_ranks_is_a_scaling(closeness, factor):
    whole = values(closeness, 3, 4)
    scaled = closeness.scaled(whole, factor)
    cause = explain(difference(closeness, [scaled, scaled], whole))
    assert (cause.kind, cause.factor) == (CauseKind.SCALED, factor)
    wrong = off_by_one_element(scaled, closeness)
    assert explain(difference(closeness, [wrong, wrong], whole)) is None


def test_half_on_two_ranks_is_a_scaling_although_the_sum_is_right(closeness):
    whole = values(closeness, 3, 4)
    half = closeness.scaled(whole, Fraction(1, 2))
    found = difference(closeness, [half, half], whole)
    assert sum_is_right(found, ("tp",))
    assert explain(found).kind is CauseKind.SCALED


def test_two_factors_are_none(closeness):
    whole = values(closeness, 3, 4)
    actual = [closeness.scaled(whole, Fraction(2)), closeness.scaled(whole, Fraction(3))]
    assert common_factor(difference(closeness, actual, whole)) is None


@pytest.mark.parametrize("factor", [Fraction(64, 63), Fraction(-3), Fraction(65)])
def test_exact_factors_go_up_to_64(factor):
    closeness = Exact(PRIME)
    whole = values(closeness, 3, 4)
    found = difference(closeness, [closeness.scaled(whole, factor)] * 2, whole)
    assert common_factor(found) == (None if factor == 65 else factor)


def test_a_factor_of_shards_is_of_every_shard(closeness):
    whole = values(closeness, 4)
    expected = [whole[:2], whole[2:]]
    cause = explain(difference(closeness, [closeness.scaled(one, Fraction(3)) for one in expected], expected))
    assert (cause.kind, cause.factor) == (CauseKind.SCALED, 3)


def test_zeros_in_place_of_values_are_zero_everywhere(closeness):
    whole = values(closeness, 3, 4)
    zeros = torch.zeros_like(whole)
    assert explain(difference(closeness, [zeros, zeros], whole)).kind is CauseKind.ZERO_EVERYWHERE
    assert explain(difference(closeness, [off_by_one_element(zeros, closeness)] * 2, whole)) is None


def test_where_zero_is_expected_there_is_no_factor(closeness):
    whole = torch.zeros_like(values(closeness, 3))
    assert common_factor(difference(closeness, [whole + 1, whole + 1], whole)) is None


# Replicas, biases, order ----------------------------------------------------------------------------------------------


def test_a_replica_that_differs_from_a_right_one_is_named(closeness):
    whole = values(closeness, 3, 4)
    found = difference(closeness, [whole, off_by_one_element(whole, closeness)], whole)
    cause = explain(found)
    assert (cause.kind, cause.ranks) == (CauseKind.REPLICAS_DIFFER, (1,))


@pytest.mark.parametrize("wrong", [(0,), (1,), (2,), (0, 2)])
def test_each_replica_may_be_the_right_one(closeness, wrong):
    whole = values(closeness, 3, 4)
    actual = [off_by_one_element(whole, closeness) if rank in wrong else whole for rank in range(3)]
    cause = explain(difference(closeness, actual, whole, axes=Axes(sizes={"tp": 3})))
    assert (cause.kind, cause.ranks) == (CauseKind.REPLICAS_DIFFER, wrong)


def test_shards_of_zeros_are_no_replicas(closeness):
    zeros = torch.zeros_like(values(closeness, 2))
    index = [torch.tensor([0, 1]), torch.tensor([2, 3])]
    actual = [zeros, values(closeness, 2)]
    assert explain(difference(closeness, actual, zeros, index=index)) is None
    cause = explain(difference(closeness, actual, zeros, index=index[:1] * 2))
    assert (cause.kind, cause.ranks) == (CauseKind.REPLICAS_DIFFER, (1,))


def test_replicas_that_are_all_wrong_are_not(closeness):
    whole = values(closeness, 3, 4)
    wrong = [values(closeness, 3, 4, seed=seed) for seed in (4, 5)]
    assert explain(difference(closeness, wrong, whole)) is None


def test_a_wrong_shard_has_no_replica_that_is_right(closeness):
    whole = values(closeness, 4)
    expected = [whole[:2], whole[2:]]
    assert explain(difference(closeness, [whole[:2], off_by_one_element(whole[2:], closeness)], expected)) is None


@pytest.mark.parametrize("shape", [(3, 2, 4), (2, 4)])
def test_one_vector_off_at_every_position_is_a_repeated_bias(closeness, shape):
    whole, bias = values(closeness, *shape), values(closeness, 4, seed=2)
    off = closeness.canonical(whole + bias)
    assert explain(difference(closeness, [off, off], whole, phase=Phase.OUTPUT)).kind is CauseKind.SAME_VECTOR_OFF
    wrong = off_by_one_element(off, closeness)
    assert explain(difference(closeness, [wrong, wrong], whole, phase=Phase.OUTPUT)) is None


@pytest.mark.parametrize("shape", [(4,), (1, 4)])
def test_one_position_alone_does_not_show_a_repeated_bias(closeness, shape):
    whole, bias = values(closeness, *shape), values(closeness, 4, seed=2)
    off = closeness.canonical(whole + bias)
    assert explain(difference(closeness, [off, off], whole, phase=Phase.OUTPUT)) is None


def test_a_parameter_has_no_positions(closeness):
    whole, bias = values(closeness, 3, 4), values(closeness, 4, seed=2)
    off = closeness.canonical(whole + bias)
    index = [torch.arange(12).view(3, 4)] * 2
    assert explain(difference(closeness, [off, off], whole, index=index)) is None


def test_swapped_shards_are_named_with_their_owners(closeness):
    whole = values(closeness, 4)
    expected = [whole[:2], whole[2:]]
    cause = explain(difference(closeness, [whole[2:], whole[:2]], expected))
    assert (cause.kind, cause.ranks) == (CauseKind.SHARD_ORDER, (1, 0))
    assert explain(difference(closeness, [whole[2:], off_by_one_element(whole[:2], closeness)], expected)) is None


def test_padding_that_is_not_zero_is_named_with_its_ranks_and_its_elements(closeness):
    whole = values(closeness, 5)
    index = [torch.tensor([0, 1, PADDING]), torch.tensor([2, 3, PADDING]), torch.tensor([4, PADDING, PADDING])]
    expected = [torch.where(at == PADDING, 0, whole[at]) for at in index]
    actual = [
        expected[0],
        *(torch.where(at == PADDING, 1, one) for at, one in zip(index[1:], expected[1:], strict=True)),
    ]
    axes = Axes(sizes={"tp": 3})
    cause = explain(difference(closeness, actual, expected, index=index, axes=axes))
    assert (cause.kind, cause.ranks, cause.elements) == (CauseKind.PADDING_USED, (1, 2), 3)
    actual[2] = actual[2] + torch.tensor([1, 0, 0])
    assert explain(difference(closeness, actual, expected, index=index, axes=axes)) is None


# The table ------------------------------------------------------------------------------------------------------------


def test_the_first_relation_that_holds_is_the_cause(closeness):
    """Swapped shards of two replicated halves each: the sum is not right, no factor fits, the order explains it."""
    whole = values(closeness, 4)
    found = difference(closeness, [whole[2:], whole[:2]], [whole[:2], whole[2:]])
    holding = [relation for relation in RELATIONS if relation(found) is not None]
    assert holding == [shard_order]


def test_a_symbol_is_no_residue():
    """finfo.min is recorded as half the prime and 2, which is congruent to a representative and yet another value."""
    closeness = Exact(PRIME)
    symbol = torch.tensor([PRIME // 2 + 2])
    assert bool(closeness.differs(symbol, symbol - PRIME).all())
    assert not closeness.differs(symbol, symbol).any()


def test_nan_is_close_to_nothing():
    nan = torch.full((2,), torch.nan)
    assert bool(WithinNoise(1.0).differs(nan, nan).all())


# A bias in parts, a few vectors, zeros ------------------------------------------------------------------------------


def test_parts_with_a_vector_each_sum_up_but_for_vectors(closeness):
    whole = values(closeness, 4, 3)
    biases = [values(closeness, 3, seed=30 + rank) for rank in range(2)]
    parts = [closeness.canonical(part + bias) for part, bias in zip(parts_of(closeness, whole, 2), biases, strict=True)]
    found = explain(difference(closeness, parts, whole, phase=Phase.OUTPUT))
    assert (found.kind, found.axes, found.approximate) == (CauseKind.PARTS_WITH_BIAS, ("tp",), closeness.approximate)
    moved = [parts[0], off_by_one_element(parts[1], closeness)]
    assert explain(difference(closeness, moved, whole, phase=Phase.OUTPUT)) is None
    one_position = [part[:1] for part in parts]
    assert explain(difference(closeness, one_position, whole[:1], phase=Phase.OUTPUT)) is None


def test_replicas_are_no_parts(closeness):
    whole = values(closeness, 4, 3)
    twice = closeness.canonical(values(closeness, 3, seed=9) - whole)  # the sum of both is off by one vector
    half = closeness.scaled(closeness.canonical(twice + 2 * whole), Fraction(1, 2))
    found = explain(difference(closeness, [half, half], whole, phase=Phase.OUTPUT))
    assert (found.kind if found else None) is (None if closeness.approximate else CauseKind.FEATURES_SCALED)


@pytest.mark.parametrize(("vectors", "positions", "told"), [(2, 5, True), (2, 4, False), (2, 3, False), (3, 9, False)])
def test_few_vectors_are_at_most_as_many_as_ranks_at_more_than_twice_as_many_positions(vectors, positions, told):
    closeness = COMPARISONS["exact"]
    whole, off = values(closeness, positions, 3), values(closeness, vectors, 3, seed=4)
    actual = closeness.canonical(whole + off[torch.arange(positions) % vectors])
    found = explain(difference(closeness, [actual, actual], whole, phase=Phase.OUTPUT))
    assert (found.kind if found else None) == (CauseKind.FEW_VECTORS_OFF if told else None)
    assert found is None or found.elements == vectors
    actual[0] = whole[0]  # a position that is right
    assert explain(difference(closeness, [actual, actual], whole, phase=Phase.OUTPUT)) is None


def test_each_of_few_vectors_comes_more_than_once():
    closeness = COMPARISONS["exact"]
    whole, off = values(closeness, 5, 3), values(closeness, 2, 3, seed=4)
    for which, kind in (([0, 0, 0, 1, 1], CauseKind.FEW_VECTORS_OFF), ([0, 0, 0, 0, 1], None)):
        actual = closeness.canonical(whole + off[which])
        found = explain(difference(closeness, [actual, actual], whole, phase=Phase.OUTPUT))
        assert (found.kind if found else None) == kind


def test_the_rank_with_the_most_vectors_counts():
    closeness = COMPARISONS["exact"]
    whole, off = values(closeness, 6, 3), values(closeness, 2, 3, seed=4)
    actual = [closeness.canonical(whole + off[which]) for which in ([0, 1] * 3, [0] * 6)]
    assert explain(difference(closeness, actual, whole, phase=Phase.OUTPUT)).elements == 2


def test_few_vectors_are_not_told_within_noise():
    closeness = COMPARISONS["within noise"]
    whole, off = torch.arange(15.0).view(5, 3), torch.tensor([[3.0, 1.0, 7.0], [2.0, 9.0, 4.0]])
    actual = whole + off[[0, 1, 0, 1, 0]]
    assert explain(difference(closeness, [actual, actual], whole, phase=Phase.OUTPUT)) is None


def test_parts_of_different_tensors_have_no_sum_beside_a_vector(closeness):
    first, second, bias = (values(closeness, *shape, seed=seed) for seed, shape in enumerate([(4, 3), (4, 3), (3,)]))
    parts = parts_of(closeness, closeness.canonical(first + bias), 2)
    assert explain(difference(closeness, parts, first, phase=Phase.OUTPUT)).kind is CauseKind.PARTS_WITH_BIAS
    assert explain(difference(closeness, parts, [first, second], phase=Phase.OUTPUT)) is None


def test_zeros_in_part_have_their_place(closeness):
    whole = values(closeness, 4, 3)
    actual = whole.clone()
    actual[[1, 3]] = 0
    found = explain(difference(closeness, [actual, actual], whole))
    assert (found.kind, found.dim, found.indices, found.elements) == (CauseKind.ZERO_IN_PART, 0, (1, 3), 12)
    assert explain(difference(closeness, [off_by_one_element(actual, closeness)] * 2, whole)) is None


def test_features_are_scaled_and_shifted_at_three_positions_and_more():
    closeness = COMPARISONS["exact"]
    factor, shift = values(closeness, 3, seed=4), values(closeness, 3, seed=5)
    for positions, kind in ((2, None), (3, CauseKind.FEATURES_SCALED), (7, CauseKind.FEATURES_SCALED)):
        whole = values(closeness, positions, 3)
        actual = closeness.canonical(whole * factor + shift)
        found = explain(difference(closeness, [actual, actual], whole, phase=Phase.OUTPUT))
        assert (found.kind if found else None) == kind
        off = off_by_one_element(actual, closeness)
        assert explain(difference(closeness, [off, off], whole, phase=Phase.OUTPUT)) is None


def test_features_that_are_constants_instead_are_not_scaled():
    closeness = COMPARISONS["exact"]
    whole = values(closeness, 5, 3)
    actual = torch.stack([whole[:, 0], whole[:, 1], whole[:1, 2].expand(5) + 1], 1)
    assert explain(difference(closeness, [actual, actual], whole, phase=Phase.OUTPUT)) is None


@pytest.mark.parametrize(
    ("factor", "elements", "named"),
    [("2", 1, True), ("1/64", 1, True), ("3/2", 1, True), ("63/64", 1, False), ("-2", 1, False), ("63/64", 2, True)],
)
def test_one_number_alone_has_few_factors(factor, elements, named):
    closeness = COMPARISONS["exact"]
    whole = values(closeness, elements)
    actual = closeness.scaled(whole, Fraction(factor))
    found = explain(difference(closeness, [actual, actual], whole, phase=Phase.LOSS))
    assert (found is not None and found.factor == Fraction(factor)) is named
