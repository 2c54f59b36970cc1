"""Elements are found by their values: shards, replicas, fused and padded parameters; what is not there is refused."""

import pytest
import torch

from shardproof.errors import CannotRunError
from shardproof.proving.judging.layout import PADDING, find_layout, full_state, not_of_the_state

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
