"""Activations in an order of the ranks' own: found by values, and remembered where it is certain."""

import pytest
import torch

from shardproof.proving.axes import Axes
from shardproof.proving.judging.permutations import KnownOrders, find_order, is_whole_shards
from shardproof.proving.judging.placement import find_placement, place_activation

CP = Axes(sizes={"cp": 2})
GRID = Axes(sizes={"dp": 2, "cp": 2}, data=("dp",))
ZIGZAG = ([0, 1, 6, 7], [2, 3, 4, 5])
STRIPED = ([0, 2, 4, 6], [1, 3, 5, 7])
SWAPPED = ([4, 5, 6, 7], [0, 1, 2, 3])


def numbered(*shape):
    return torch.arange(torch.Size(shape).numel()).reshape(shape)


def hold(whole, orders, dim=1):
    return {rank: whole.index_select(dim, torch.tensor(order)) for rank, order in enumerate(orders)}


@pytest.mark.parametrize("orders", [ZIGZAG, STRIPED, SWAPPED])
@pytest.mark.parametrize(("shape", "dim"), [((2, 8, 3), 1), ((8, 3), 0), ((8, 2, 3), 0)])
def test_a_permutation_of_a_dim_is_what_the_ranks_should_hold(orders, shape, dim):
    whole = numbered(*shape)
    parts = hold(whole, orders, dim)
    wanted = place_activation(parts, whole, CP)
    assert all(torch.equal(wanted[rank], part) for rank, part in parts.items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.int32, torch.bool])
@pytest.mark.parametrize("shape", [(8,), (8, 3), (8, 0)])
def test_slices_of_every_dtype_and_size_are_found(dtype, shape):
    whole = numbered(*shape).to(dtype)
    parts = hold(whole, ZIGZAG, 0)
    wanted = place_activation(parts, whole, CP)
    assert wanted[0].shape == parts[0].shape
    assert dtype == torch.bool or all(torch.equal(wanted[rank], part) for rank, part in parts.items())


def test_beside_an_axis_that_splits_the_batch():
    whole = numbered(4, 8, 3)
    parts = {rank: hold(whole[2 * (rank // 2) :][:2], ZIGZAG)[rank % 2] for rank in range(4)}
    wanted = place_activation(parts, whole, GRID)
    assert all(torch.equal(wanted[rank], part) for rank, part in parts.items())


@pytest.mark.parametrize(
    "orders",
    [
        ([0, 1, 6, 7], [2, 3, 4, 4]),  # one position twice, another never
        ([0, 1, 2, 3], [0, 1, 2, 3]),  # the same half on both ranks
    ],
)
def test_positions_that_are_not_shared_out_are_wrong(orders):
    whole = numbered(2, 8, 3)
    parts = hold(whole, orders)
    wanted = place_activation(parts, whole, CP)
    assert not all(torch.equal(wanted[rank], part) for rank, part in parts.items())


def test_swapped_features_are_not_set_right():
    whole = numbered(2, 3, 8)
    parts = hold(whole, SWAPPED, dim=2)
    wanted = place_activation(parts, whole, CP)
    assert torch.equal(wanted[0], whole[..., :4])


def test_an_order_that_is_certain_is_that_of_a_later_tensor_with_wrong_values():
    known, whole = KnownOrders(), numbered(2, 8, 3)
    place_activation(hold(whole, ZIGZAG), whole, CP, known=known)
    later = numbered(2, 8, 5) + 1000
    parts = hold(later, ZIGZAG)
    parts[1] = parts[1].clone()
    parts[1][0, 0, 0] += 1
    wanted = place_activation(parts, later, CP, known=known)
    assert torch.equal(wanted[0], parts[0])
    assert int((wanted[1] != parts[1]).sum()) == 1
    unknown = place_activation(parts, later, CP)
    assert int((unknown[1] != parts[1]).sum()) > 1


def test_an_order_that_is_not_certain_is_right_here_and_not_remembered():
    known, whole = KnownOrders(), numbered(1, 8, 3)
    whole[:, 6] = whole[:, 0]
    parts = hold(whole, ZIGZAG)
    placed = find_placement(parts, whole, CP, known=known)
    assert not placed.certain
    assert all(torch.equal(one, parts[rank]) for rank, one in placed.parts_of(whole).items())
    assert known.orders == {}


def test_the_first_order_of_a_length_stays():
    known = KnownOrders()
    first, second = ({rank: torch.tensor(own) for rank, own in enumerate(orders)} for orders in (ZIGZAG, STRIPED))
    known.learn(("cp",), 8, first)
    known.learn(("cp",), 8, second)
    assert known.of(["cp"], 8) is first
    assert known.of(["cp"], 16) is None
    assert known.of(["tp"], 8) is None


def test_whole_shards_are_contiguous_runs():
    whole = numbered(8, 2)
    for orders, runs in ((SWAPPED, True), (ZIGZAG, False)):
        order, certain = find_order(hold(whole, orders, 0), dict.fromkeys(range(2), whole), 0, ["cp"], CP)
        assert certain
        assert {rank: own.tolist() for rank, own in order.items()} == dict(enumerate(orders))
        assert is_whole_shards(order) is runs


@pytest.mark.parametrize("rows", [slice(0, 2), slice(2, 4)])
def test_an_order_is_certain_if_it_is_in_every_group(rows):
    whole = numbered(4, 8, 3)
    whole[rows, 6] = whole[rows, 0]
    parts = {rank: hold(whole[2 * (rank // 2) :][:2], ZIGZAG)[rank % 2] for rank in range(4)}
    wholes = {rank: whole[2 * (rank // 2) :][:2] for rank in range(4)}
    assert find_order(parts, wholes, 1, ["cp"], GRID)[1] is False


def test_groups_of_ranks_that_hold_nothing_are_left_out():
    whole = numbered(2, 8, 3)
    order, certain = find_order(hold(whole, ZIGZAG), dict.fromkeys(range(2), whole), 1, ["cp"], GRID)
    assert certain
    assert {rank: own.tolist() for rank, own in order.items()} == dict(enumerate(ZIGZAG))


@pytest.mark.parametrize("orders", [([0, 1, 2, 3, 4, 5, 6, 7], [0]), ([0, 1, 2, 3, 4, 5, 6, 7], [1]), ([0, 1, 2, 3],)])
def test_slices_that_the_whole_does_not_have_and_slices_that_no_rank_has_are_no_order(orders):
    whole = numbered(8, 2)
    parts = hold(whole, orders, 0)
    assert find_order(parts, dict.fromkeys(parts, whole), 0, ["cp"], CP) is None
    other = {**parts, 0: parts[0] + 1000}
    assert find_order(other, dict.fromkeys(parts, whole), 0, ["cp"], CP) is None
