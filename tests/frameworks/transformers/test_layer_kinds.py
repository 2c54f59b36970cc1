"""Kinds of layers, and the fewest layers with every kind and every way in which one follows another."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from shardproof.frameworks.transformers.layer_kinds import choose_kinds, describe_layers, find_layers, list_joins


@pytest.mark.parametrize(
    ("kinds", "kept"),
    [
        ("D", (0,)),
        ("DDDD", (0, 1)),
        ("DDDMMMM", (0, 1, 3, 4)),
        ("SSSFSSS", (0, 1, 3, 4)),
        ("SSSFSSSF", (0, 1, 3, 4, 7)),  # the last layer is full
        ("SFSFSFS", (0, 1, 2)),
        ("SFSFSF", (0, 1, 2, 5)),
        ("ABCAC", (0, 1, 2, 3, 4)),
    ],
)
def test_every_kind_and_every_join_is_kept(kinds, kept):
    assert choose_kinds(kinds) == kept


@given(st.text("ABC", min_size=1, max_size=40))
def test_no_join_is_lost_and_none_is_new(kinds):
    kept = choose_kinds(kinds)
    chosen = [kinds[index] for index in kept]
    assert set(pairwise(chosen)) == list_joins(kinds)
    assert set(chosen) == set(kinds)
    assert (chosen[0], chosen[-1]) == (kinds[0], kinds[-1])
    assert list(kept) == sorted(set(kept))


class Layer(nn.Module):
    def __init__(self, index, width=4, window=None, **modules):
        super().__init__()
        self.layer_idx, self.window = index, window
        self.up = nn.Linear(4, width)
        for name, module in modules.items():
            setattr(self, name, module)


def describe(*layers):
    return describe_layers(nn.ModuleList(layers), None)


def test_layers_of_one_kind_differ_in_their_number_alone():
    one, other = describe(Layer(0), Layer(1))
    assert one == other


@pytest.mark.parametrize(
    "other",
    [Layer(1, width=6), Layer(1, window=4), Layer(1, norm=nn.LayerNorm(4)), Layer(1, up=nn.Linear(4, 4, bias=False))],
)
def test_a_width_a_setting_or_a_module_is_another_kind(other):
    first, second = describe(Layer(0), other)
    assert first != second


def test_what_the_configuration_says_tells_layers_apart():
    layers = nn.ModuleList([Layer(0), Layer(1)])
    assert len(set(describe_layers(layers, {"num_hidden_layers": 2, "layer_types": ["full", "sliding"]}))) == 2


def test_a_smaller_layer_is_of_the_same_kind_if_only_its_numbers_differ():
    full, small, windowed = describe(Layer(0, width=64), Layer(0, width=4), Layer(0, window="yes"))
    assert full.same_layer(small, shapes=False)
    assert not full.same_layer(small, shapes=True)
    assert not full.same_layer(windowed, shapes=False)


def test_the_layers_are_the_outermost_list_of_that_length():
    inner = nn.ModuleList([nn.Linear(2, 2)])
    model = nn.Sequential(nn.ModuleList([inner, inner]))
    assert find_layers(model, 2) is model[0]
    assert find_layers(model, 3) is None
