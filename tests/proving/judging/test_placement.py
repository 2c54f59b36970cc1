"""Axes as numbers, and activations placed axis by axis: each layout is found, and swapped shards are not set right."""

from itertools import product

import pytest
import torch

from shardproof.proving.axes import Axes, make_axes
from shardproof.proving.judging.layout import find_layout
from shardproof.proving.judging.permutations import KnownOrders
from shardproof.proving.judging.placement import find_placement, find_rows, place_activation

AXES = Axes(sizes={"dp": 2, "tp": 3}, data=("dp",))


def shard(whole, dims, *, lengths=None):
    """The parts of all ranks: along each axis a shard of its dim, or the same; dp is outermost."""
    parts = {}
    for rank in range(AXES.size):
        part = whole
        for name, dim in dims.items():
            if dim is not None:
                size, at = AXES.sizes[name], AXES.mesh_coordinates(rank)[name]
                part = part.split((lengths or {}).get(name, part.shape[dim] // size), dim)[at]
        parts[rank] = part
    return parts


def numbered(*shape):
    return torch.arange(torch.Size(shape).numel()).reshape(shape)


def test_the_last_axis_has_neighbours():
    assert [AXES.mesh_coordinates(rank) for rank in (0, 1, 3, 5)] == [
        {"dp": 0, "tp": 0},
        {"dp": 0, "tp": 1},
        {"dp": 1, "tp": 0},
        {"dp": 1, "tp": 2},
    ]
    assert AXES.groups(["tp"]) == [[0, 1, 2], [3, 4, 5]]
    assert AXES.groups(["dp"]) == [[0, 3], [1, 4], [2, 5]]
    assert AXES.groups(["dp", "tp"]) == [[0, 1, 2, 3, 4, 5]]
    assert [AXES.number(rank, ["tp", "dp"]) for rank in range(6)] == [0, 2, 4, 1, 3, 5]
    assert list(AXES.choices()) == [("dp",), ("tp",), ("dp", "tp")]


@pytest.mark.parametrize("names", [["dp"], ["fsdp"], ["dp_replicate", "dp_shard"], ["data"], ["ep"], ["dp", "ep"]])
def test_data_axes_go_by_their_names(names):
    axes = make_axes(mesh={**dict.fromkeys(names, 2), "tp": 2})
    assert (axes.data, axes.shares) == (tuple(names), 2 ** len(names))
    assert make_axes(mesh={"cp": 2, "rep": 2, "tp": 2}).data == ()
    assert make_axes(mesh={"ep": 2, "tp": 2}, data_axes=[]).data == ()


@pytest.mark.parametrize(("dp", "tp"), list(product([None, 0, 1, 2], repeat=2)))
def test_every_layout_is_found(dp, tp):
    whole = numbered(6, 6, 6)
    parts = shard(whole, {"dp": dp, "tp": tp})
    wanted = place_activation(parts, whole, AXES)
    assert wanted is not None
    assert all(torch.equal(wanted[rank], part) for rank, part in parts.items())


def test_uneven_shards_of_the_same_dim_are_found():
    whole = numbered(8, 5)
    parts = shard(whole, {"dp": 0, "tp": 1}, lengths={"dp": 6, "tp": 2})
    assert [tuple(part.shape) for part in parts.values()] == [(6, 2), (6, 2), (6, 1), (2, 2), (2, 2), (2, 1)]
    wanted = place_activation(parts, whole, AXES)
    assert wanted is not None
    assert all(torch.equal(wanted[rank], part) for rank, part in parts.items())


def test_swapped_shards_are_placed_where_they_belong():
    whole = numbered(4, 6)
    parts = shard(whole, {"dp": 0, "tp": 1})
    parts[0], parts[1] = parts[1], parts[0]
    wanted = place_activation(parts, whole, AXES)
    assert wanted is not None
    assert [torch.equal(wanted[rank], part) for rank, part in parts.items()] == [False, False, True, True, True, True]


def test_where_several_layouts_fit_and_none_is_right_rows_go_over_dp():
    axes = Axes(sizes={"dp": 2, "tp": 2}, data=("dp",))
    wanted = place_activation({rank: torch.zeros(2, 2) for rank in range(4)}, numbered(4, 4), axes)
    assert wanted is not None
    assert [wanted[rank].tolist() for rank in (0, 2)] == [[[0, 1], [4, 5]], [[8, 9], [12, 13]]]


def test_of_layouts_that_fit_the_one_that_is_right_is_found():
    axes = Axes(sizes={"dp": 2, "tp": 2}, data=("dp",))
    whole = numbered(4, 4)
    parts = {rank: whole.chunk(2, 1)[rank // 2].chunk(2)[rank % 2] for rank in range(4)}
    placed = find_placement(parts, whole, axes)
    assert placed is not None
    assert placed.placement.dims == {"dp": 1, "tp": 0}
    assert all(torch.equal(one, parts[rank]) for rank, one in placed.parts_of(whole).items())


@pytest.mark.parametrize(
    ("sizes", "data", "dims"),
    [
        ({"dp": 2, "tp": 2}, ("dp",), {"dp": 0, "tp": None}),
        ({"tp": 2, "dp": 2}, ("dp",), {"tp": None, "dp": 0}),
        ({"tp": 2, "cp": 2}, (), {"tp": None, "cp": 0}),
    ],
)
def test_where_none_is_right_the_first_axes_hold_the_same_and_data_axes_split_rows(sizes, data, dims):
    parts = {rank: torch.zeros(2, 4) for rank in range(4)}
    placed = find_placement(parts, numbered(4, 4), Axes(sizes=sizes, data=data))
    assert placed is not None
    assert placed.placement.dims == dims


def test_an_axis_of_one_rank_splits_nothing():
    placed = find_placement(dict(enumerate(numbered(4, 4).chunk(2))), numbered(4, 4), Axes(sizes={"dp": 1, "tp": 2}))
    assert placed is not None
    assert placed.placement.dims == {"tp": 0}


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_an_order_of_the_ranks_own_is_found_along_any_dim_and_remembered(dim):
    whole, axes = numbered(4, 4, 4), Axes(sizes={"cp": 2})
    orders = [torch.tensor([0, 3]), torch.tensor([1, 2])]
    known = KnownOrders()
    parts = {rank: whole.index_select(dim, order) for rank, order in enumerate(orders)}
    placed = find_placement(parts, whole, axes, known=known)
    assert placed is not None
    assert placed.certain
    assert placed.permuted[0] == dim
    assert [one.tolist() for one in placed.permuted[1].values()] == [[0, 3], [1, 2]]
    assert [torch.equal(one, parts[rank]) for rank, one in placed.parts_of(whole).items()] == [True, True]
    assert known.of(["cp"], 4) is placed.permuted[1]
    wrong = find_placement({0: parts[0] + 100, 1: parts[1]}, whole, axes, known=known)
    assert [torch.equal(one, parts[rank]) for rank, one in wrong.parts_of(whole).items()] == [True, True]


def test_an_order_that_other_slices_would_do_for_is_not_remembered():
    whole, known = numbered(4, 3), KnownOrders()
    whole[3] = whole[0]
    parts = {0: whole[[1, 3]], 1: whole[[2, 0]]}
    placed = find_placement(parts, whole, Axes(sizes={"cp": 2}), known=known)
    assert placed is not None
    assert not placed.certain
    assert known.orders == {}


def test_features_follow_the_rows_of_a_fused_weight():
    whole = numbered(2, 6)
    rows = {rank: torch.tensor([at, at + 3]) for rank in range(6) for at in [AXES.mesh_coordinates(rank)["tp"]]}
    parts = {rank: whole[rank // 3 : rank // 3 + 1, rows[rank]] for rank in range(6)}
    wanted = place_activation(parts, whole, AXES, rows)
    assert wanted is not None
    assert all(torch.equal(wanted[rank], part) for rank, part in parts.items())


@pytest.mark.parametrize("shape", [(3, 6), (4, 6, 1), (4, 4), (2, 5)])
def test_shapes_that_fit_no_layout_are_not_placed(shape):
    assert place_activation(dict.fromkeys(range(6), torch.zeros(shape)), numbered(4, 6), AXES) is None


def test_a_placement_gives_the_parts_of_any_tensor_of_the_shape():
    whole = numbered(6, 6)
    parts = shard(whole, {"dp": 0, "tp": 1})
    placed = find_placement(parts, whole, AXES)
    assert placed is not None
    assert placed.parts_of(-whole)[4].tolist() == (-parts[4]).tolist()
    assert placed.parts_of(numbered(6, 9)) is None


# Rows of weights ------------------------------------------------------------------------------------------------------

WEIGHT = torch.arange(1.0, 13.0, dtype=torch.float64).view(4, 3)
PAIR = Axes(sizes={"tp": 2})
SQUARE = Axes(sizes={"dp": 2, "tp": 2}, data=("dp",))


def rows_of(*parts, axes=PAIR, full=WEIGHT, name="m.weight"):
    layout = find_layout({"first": -WEIGHT, name: full, "last": 100 + WEIGHT}, {name: dict(enumerate(parts))})
    found = find_rows(layout, "m", axes)
    return None if found is None else {rank: rows.tolist() for rank, rows in found.items()}


@pytest.mark.parametrize(
    ("parts", "rows"),
    [
        ([WEIGHT[:2], WEIGHT[2:]], {0: [0, 1], 1: [2, 3]}),
        ([WEIGHT[:3], WEIGHT[3:]], {0: [0, 1, 2], 1: [3]}),
        ([WEIGHT[[0, 2]], WEIGHT[[3, 1]]], {0: [0, 2], 1: [3, 1]}),
        ([WEIGHT[:, :1], WEIGHT[:, 1:]], {0: [0], 1: [1, 2]}),  # features are columns, as of Conv1D
        ([WEIGHT, WEIGHT], None),
        ([WEIGHT[:2], WEIGHT[1:3]], None),
        ([WEIGHT[:2], torch.cat([WEIGHT[2:], 0 * WEIGHT[:1]])], None),
        ([WEIGHT[:2], torch.cat([WEIGHT[2:], -WEIGHT[:1]])], None),  # a row of the parameter before it
        ([WEIGHT[:2], torch.cat([WEIGHT[2:], 100 + WEIGHT[:1]])], None),  # of the one behind it
        ([WEIGHT[:2], WEIGHT[2:].reshape(-1)], None),
        ([WEIGHT[:2, :2], WEIGHT[2:, :2]], None),
        ([WEIGHT[:2].flip(1), WEIGHT[2:].flip(1)], None),
        ([WEIGHT[:2]], None),
    ],
)
def test_rows_are_whole_and_each_on_one_rank(parts, rows):
    assert rows_of(*parts) == rows


def test_rows_are_gathered_along_data_axes():
    quarters = [WEIGHT[:1], WEIGHT[2:3], WEIGHT[1:2], WEIGHT[3:]]
    assert rows_of(*quarters, axes=SQUARE) == {0: [0, 1], 2: [0, 1], 1: [2, 3], 3: [2, 3]}
    halves = [WEIGHT[:2], WEIGHT[2:]] * 2
    assert rows_of(*halves, axes=SQUARE) == {0: [0, 1], 2: [0, 1], 1: [2, 3], 3: [2, 3]}


def test_only_a_matrix_of_this_module_on_both_sides_has_rows():
    assert rows_of(WEIGHT[0, :2], WEIGHT[0, 2:], full=WEIGHT[0]) is None
    assert rows_of(WEIGHT[:2], WEIGHT[2:], name="n.weight") is None
    fused = find_layout({"n.weight": WEIGHT}, {"m.weight": {0: WEIGHT[:2], 1: WEIGHT[2:]}})
    assert find_rows(fused, "m", PAIR) is None
    of_no_rank = find_layout({"m.weight": WEIGHT, "n.weight": -WEIGHT}, {"n.weight": {0: -WEIGHT[:2], 1: -WEIGHT[2:]}})
    assert find_rows(of_no_rank, "m", PAIR) is None
