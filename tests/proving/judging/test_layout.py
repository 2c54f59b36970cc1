"""Elements are found by their values: shards, replicas, fused and padded parameters; what is not there is refused."""

import pytest
import torch

from shardproof.errors import CannotRunError
from shardproof.proving.judging.layout import PADDING, find_layout, full_state, lay_out_whole, not_of_the_state

W = torch.arange(1.0, 7.0, dtype=torch.float64).view(2, 3)
B = torch.tensor([-1.0, -2.0], dtype=torch.float64)
FULL = {"w": W, "b": B}


def test_the_full_state_is_one_vector_in_the_order_of_the_parameters():
    state = full_state(FULL)
    assert (state.names, state.starts, state.length) == (("w", "b"), (0, 6, 8), 8)
    assert (state.span("w"), state.span("b")) == (slice(0, 6), slice(6, 8))
    assert state.flatten(FULL).tolist() == [1, 2, 3, 4, 5, 6, -1, -2]
    assert state.flatten({"b": B}).tolist() == [0] * 6 + [-1, -2]


@pytest.mark.parametrize(
    ("local", "index"),
    [
        (W, [[0, 1, 2], [3, 4, 5]]),
        (W[1:], [[3, 4, 5]]),
        (W.T, [[0, 3], [1, 4], [2, 5]]),
        (torch.cat([W[0], B]), [0, 1, 2, 6, 7]),
        (torch.tensor([6.0, 0.0]), [5, PADDING]),
        (torch.zeros(0), []),
        (W[:1].to(torch.float32), [[0, 1, 2]]),
    ],
)
def test_an_element_is_where_its_value_is(local, index):
    layout = find_layout(FULL, {"p": {0: local}})
    assert layout.element_index["p"][0].tolist() == index


@pytest.mark.parametrize("value", [7.0, -0.5, 1.0 + 2**-40, torch.nan])
def test_a_value_that_is_not_in_the_full_state_is_refused(value):
    with pytest.raises(CannotRunError, match="parameter p on rank 1 starts with values that are not in the full state"):
        find_layout(FULL, {"p": {0: W, 1: torch.tensor([1.0, value], dtype=torch.float64)}})


def test_a_zero_that_is_a_value_of_the_reference_is_no_padding():
    layout = find_layout({"w": torch.tensor([0.0, 1.0])}, {"w": {0: torch.tensor([0.0, 1.0])}})
    assert layout.element_index["w"][0].tolist() == [0, 1]


def test_a_fused_parameter_spans_those_that_it_holds_elements_of():
    layout = find_layout(FULL, {"fused": {0: W[0], 1: B}, "w": {0: W[:1], 1: torch.zeros(1, 3)}, "none": {0: B[:0]}})
    assert list(layout.spans("fused")) == ["w", "b"]
    assert list(layout.spans("w")) == ["w"]
    assert list(layout.spans("none")) == []
    first = find_layout(FULL, {"last of w": {0: W[1, 2:]}, "first of b": {0: B[:1]}})
    assert list(first.spans("last of w")) == ["w"]
    assert list(first.spans("first of b")) == ["b"]
    assert list(first.spans("of no rank")) == []


def test_where_no_rank_is_known_none_is_named():
    assert not_of_the_state("p").startswith("parameter p starts with values")
    assert not_of_the_state("p", 0).startswith("parameter p on rank 0 starts with values")


def test_the_first_element_is_no_padding_and_the_only_one_is_looked_up():
    assert list(find_layout(FULL, {"p": {0: W[0, :1]}}).spans("p")) == ["w"]
    with pytest.raises(CannotRunError, match="parameter p on rank 0"):
        find_layout({"one": W[0, :1]}, {"p": {0: W[0, 1:2]}})


SHARDS = {
    "rows": W[1:],
    "columns": W[:, 1:],
    "rows in another order": W[[1, 0]],
    "padded": torch.cat([W[1:], torch.zeros(1, 3, dtype=torch.float64)]),
    "transposed": W.T,
    "empty": W[:0],
}


@pytest.mark.parametrize("name", SHARDS)
def test_elements_are_taken_of_a_vector_and_put_back_where_they_were_found(name):
    local = SHARDS[name]
    layout = find_layout(FULL, {"w": {0: W, 1: local}})
    vector = torch.arange(10.0, 18.0, dtype=torch.float64)
    taken = layout.take(vector, "w", 1)
    assert torch.equal(taken, torch.where(local == 0, 0, local + 9))
    layout.put(vector, "w", 1, -taken)
    inside = torch.isin(torch.cat([W.reshape(-1), B]), local.contiguous())
    assert vector.tolist() == [-value if held else value for value, held in zip(range(10, 18), inside, strict=True)]
    layout.put(vector, "w", 1, values=True)
    assert vector[inside].tolist() == [1] * int(inside.sum())


def test_shards_are_parts_and_padded_or_transposed_ones_are_looked_up():
    layout = find_layout(FULL, {"w": dict(enumerate(SHARDS.values()))})
    assert [rank for rank in range(len(SHARDS)) if rank in layout.parts["w"]] == [0, 1, 2, 5]
    assert not layout.is_in_parts("w")
    assert find_layout(FULL, {"w": {3: W[1:]}, "b": {0: B}}).is_in_parts("w")


def test_a_part_of_another_parameter_is_looked_up_and_spans_it():
    layout = find_layout(FULL, {"b": {0: W[0]}, "w": {0: B}})
    assert (layout.parts, list(layout.spans("b")), list(layout.spans("w"))) == ({}, ["w"], ["b"])


def test_ranks_that_hold_the_full_state_are_laid_out_without_its_values():
    layout, found = lay_out_whole(FULL, 2), find_layout(FULL, {"w": {0: W, 1: W}, "b": {0: B, 1: B}})
    assert layout.parts == found.parts
    for name in FULL:
        for rank in range(2):
            assert torch.equal(layout.element_index[name][rank], found.element_index[name][rank])


@pytest.mark.parametrize(
    ("name", "held", "flat"),
    [
        ("part", torch.cat([W.flatten(), B])[:7], True),
        ("part", W.flatten()[:2], True),  # of one matrix
        ("part", torch.cat([W, W]), False),  # tied to it
        ("part", B, False),
        ("w", W.flatten(), False),
    ],
)
def test_a_flat_buffer_has_a_name_of_its_own_and_elements_of_matrices_in_a_row(name, held, flat):
    assert find_layout(FULL, {name: {0: held}}).is_flat(name) is flat
