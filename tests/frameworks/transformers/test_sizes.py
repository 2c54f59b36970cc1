"""The rule that makes sizes small: what divides stays dividing, what is equal stays equal, what is small stays."""

import pytest

from shardproof.frameworks.transformers.sizes import fill_sizes, reduce_sizes


def reduce(**config):
    return reduce_sizes(config)


@pytest.mark.parametrize(
    ("name", "value", "small"),
    [
        ("vocab_size", 32000, 64),
        ("vocab_size", 50, 50),
        ("hidden_size", 4096, 32),
        ("intermediate_size", 11008, 64),
        ("moe_intermediate_size", 1408, 32),
        ("num_experts", 128, 4),
        ("num_local_experts", 8, 4),
        ("num_experts_per_tok", 8, 2),
        ("n_shared_experts", 1, 1),
        ("kv_lora_rank", 512, 16),
        ("q_lora_rank", None, None),
        ("sliding_window", 4096, 4),
        ("sliding_window", None, None),
        ("max_position_embeddings", 131072, 64),
        ("linear_conv_kernel_dim", 4, 4),
        ("some_new_count", 100, 6),
        ("chunk_size_feed_forward", 0, 0),
        ("chunk_length", 16, 4),
        ("chunk_right_context", 8, 2),
        ("max_pos_emb", 512, 64),
        ("feature_layer", -2, -2),
        ("rms_norm_eps", 1e-6, 1e-6),
        ("use_cache", True, True),
        ("patch_sizes", [16, 6, 1], [2, 2, 1]),
    ],
)
def test_each_field_by_its_kind(name, value, small):
    assert reduce(**{name: value})[name] == small


def test_heads_that_share_keys_go_on_sharing_them():
    assert reduce(num_attention_heads=32, num_key_value_heads=32)["num_key_value_heads"] == 4
    assert reduce(num_attention_heads=32, num_key_value_heads=8)["num_key_value_heads"] == 2
    assert reduce(num_attention_heads=32, num_key_value_heads=1)["num_key_value_heads"] == 1


def test_layers_with_more_heads_than_others_keep_more():
    config = reduce(num_hidden_layers=4, num_attention_heads=48, num_attention_heads_per_layer=[48, 64, 48, 64])
    assert config["num_attention_heads_per_layer"] == [4, 8]


def test_a_width_that_is_divided_into_heads_is_divided_into_pairs():
    assert reduce(hidden_size=36, num_attention_heads=6)["hidden_size"] % 8 == 0


def test_latent_attention_adds_up():
    config = reduce(qk_nope_head_dim=128, qk_rope_head_dim=64, qk_head_dim=192, head_dim=64, v_head_dim=128)
    assert config["qk_head_dim"] == config["qk_nope_head_dim"] + config["qk_rope_head_dim"]
    assert config["head_dim"] == config["qk_rope_head_dim"]


def test_a_state_space_layer_is_as_wide_as_its_input_expanded():
    config = reduce(hidden_size=4096, mamba_n_heads=128, mamba_d_head=64, mamba_expand=2)
    assert config["mamba_n_heads"] * config["mamba_d_head"] == 2 * config["hidden_size"]


def test_rotary_sections_add_up_to_half_of_what_is_rotated():
    rope = {"mrope_section": [11, 11, 10], "partial_rotary_factor": 0.25}
    config = reduce(hidden_size=2048, num_attention_heads=8, head_dim=256, rope_parameters=rope)
    sections = config["rope_parameters"]["mrope_section"]
    assert min(sections) >= 1
    assert sum(sections) == config["head_dim"] * 0.25 / 2


def test_no_more_groups_of_experts_are_chosen_than_there_are():
    assert reduce(n_group=1, topk_group=1)["topk_group"] == 1
    config = reduce(n_group=8, topk_group=4, n_routed_experts=256)
    assert config["topk_group"] <= config["n_group"]
    assert config["n_routed_experts"] % config["n_group"] == 0


def test_token_ids_lie_in_the_vocabulary_and_stay_different():
    config = reduce(
        vocab_size=128000, bos_token_id=1, eos_token_id=[127999, 127998], image_token_id=127000, pad_token_id=0
    )
    ids = [config["bos_token_id"], *config["eos_token_id"], config["image_token_id"]]
    assert len(set(ids)) == 4
    assert max(ids) < 64
    assert config["pad_token_id"] is None


def test_sub_configurations_are_reduced_likewise():
    config = reduce(text_config={"hidden_size": 4096, "num_hidden_layers": 40}, vision_config={"out_hidden_size": 4096})
    assert config == {
        "text_config": {"hidden_size": 32, "num_hidden_layers": 2},
        "vision_config": {"out_hidden_size": 32},
    }


def test_a_table_by_numbers_is_no_section():
    assert reduce(patches_to_queries={1225: 128}) == {"patches_to_queries": {1225: 128}}


def test_the_configuration_given_is_left_as_it_is():
    given = {"rope_parameters": {"mrope_section": [16, 24, 24]}, "hidden_size": 64, "num_attention_heads": 4}
    reduce_sizes(given)
    assert given["rope_parameters"] == {"mrope_section": [16, 24, 24]}


def test_what_is_left_open_is_filled_by_its_kind():
    given = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": None}
    filled = fill_sizes(given | {"head_dim": None, "pad_token_id": None, "q_lora_rank": None}, "")
    assert (filled["num_key_value_heads"], filled["head_dim"]) == (2, 8)
    assert (filled["pad_token_id"], filled["q_lora_rank"]) == (None, None)


def test_what_the_modelling_file_reads_is_filled_too():
    source = 'self.drop = config.dropout_rate; if config.layer_types[i] == "conv"; config.num_new_experts; config.name'
    pytest.importorskip("transformers")
    filled = fill_sizes({"num_hidden_layers": 3, "layer_types": None, "hidden_size": 32}, source)
    assert filled["dropout_rate"] == 0.0
    assert filled["num_new_experts"] == 4
    assert filled["layer_types"] == ["conv"] * 3
    assert "name" not in filled
