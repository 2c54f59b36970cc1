"""Which layers of a configuration are kept: one of each kind, and at least two."""

import pytest

from shardproof.frameworks.transformers.layers import choose_layers, count_layers, reduce_layer_field


def keep(**config):
    layers = choose_layers(config)
    return layers.kept


def test_a_configuration_without_layers_has_none():
    assert choose_layers({"hidden_size": 8}) is None
    assert count_layers({"n_layer": 0}) is None


@pytest.mark.parametrize("name", ["num_hidden_layers", "num_layers", "n_layer", "depth", "num_blocks"])
def test_equal_layers_leave_two(name):
    assert keep(**{name: 30}) == (0, 1)
    assert keep(**{name: 1}) == (0,)


def test_each_kind_of_a_list_stays_with_its_first_layer():
    assert keep(num_hidden_layers=6, layer_types=["a", "a", "b", "a", "c", "b"]) == (0, 2, 4)


def test_kinds_of_two_lists_are_pairs():
    kept = keep(
        num_hidden_layers=4, layer_types=["a", "b", "a", "b"], mlp_layer_types=["dense", "dense", "sparse", "sparse"]
    )
    assert kept == (0, 1, 2, 3)


def test_layers_at_the_front_and_at_the_back_are_kinds():
    assert keep(num_hidden_layers=9, first_k_dense_replace=3) == (0, 3)
    assert keep(num_hidden_layers=9, num_kv_shared_layers=4) == (0, 5)


def test_a_list_of_layer_indices_is_a_kind():
    assert keep(num_hidden_layers=9, mlp_only_layers=[4, 7]) == (0, 4)


def test_a_dictionary_by_layer_is_a_kind():
    assert keep(num_hidden_layers=9, per_layer_config={"06": {"num_experts": 3}}) == (0, 6)


def reduce(name, value, **config):
    config = {"num_hidden_layers": 8, "layer_types": list("aabaacaa"), name: value, **config}
    layers = choose_layers(config)
    assert layers.kept == (0, 2, 5)
    return reduce_layer_field(name, value, layers)


@pytest.mark.parametrize(
    ("name", "value", "small"),
    [
        ("num_hidden_layers", 8, 3),
        ("num_layers", 5, 2),  # of another stack
        ("layer_types", list("aabaacaa"), list("abc")),
        ("window_pattern", 6, 2),
        ("moe_layer_end_index", 7, 2),
        ("attn_layer_offset", 4, 1),
        ("hidden_size", 64, NotImplemented),
        ("eos_token_ids", [3, 2], NotImplemented),
    ],
)
def test_fields_that_speak_of_layers(name, value, small):
    assert reduce(name, value) == small


def test_indices_are_those_of_the_layers_kept():
    layers = choose_layers({"num_hidden_layers": 8, "mlp_only_layers": [3, 6]})
    assert layers.kept == (0, 3)
    assert reduce_layer_field("mlp_only_layers", [3, 6], layers) == [1]
    assert reduce_layer_field("per_layer_config", {"03": "x", "04": "y"}, layers) == {"1": "x"}


def test_flags_with_an_entry_a_layer_are_no_indices():
    layers = choose_layers({"num_hidden_layers": 3, "no_rope_layers": [1, 1, 0]})
    assert layers.kept == (0, 2)
    assert reduce_layer_field("no_rope_layers", [1, 1, 0], layers) == [1, 0]
