"""Configurations of a type, a file and a folder; settings by dotted names; sizes kept if asked."""

import json

import pytest

from shardproof.errors import CannotRunError
from shardproof.frameworks.transformers.configuration import load_configuration

pytest.importorskip("transformers")

LARGE = {
    "model_type": "llama",
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_attention_heads": 8,
    "vocab_size": 999,
}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(LARGE))
    return path


def test_a_file_and_the_folder_around_it_are_the_same(file):
    first, second = load_configuration(str(file), {}), load_configuration(str(file.parent), {})
    assert first.to_dict() == second.to_dict()
    assert (first.hidden_size, first.vocab_size, first.num_hidden_layers) == (32, 64, 2)


def test_full_size_keeps_the_sizes(file):
    config = load_configuration(str(file), {"vocab_size": 1000}, full_size=True)
    assert (config.hidden_size, config.vocab_size, config.num_hidden_layers) == (512, 1000, 32)


def test_settings_are_put_over_the_small_sizes():
    assert load_configuration("llama", {"hidden_size": 48}).hidden_size == 48


def test_dots_lead_into_sections_and_lists():
    settings = {"text_config.hidden_size": 48, "text_config.layer_types.0": "full_attention"}
    text = load_configuration("gemma3", settings).text_config
    assert (text.hidden_size, text.layer_types) == (48, ["full_attention", "full_attention"])
    assert load_configuration("llama", {"rope_parameters.rope_theta": 7.0}).rope_parameters["rope_theta"] == 7.0


@pytest.mark.parametrize(
    ("name", "said"),
    [("nowhere.size", "the configuration has no section 'nowhere'"), ("hidden_size.x", "has no section 'hidden_size'")],
)
def test_a_section_that_is_not_there_is_one_line(name, said):
    with pytest.raises(CannotRunError, match=said):
        load_configuration("llama", {name: 1})


def test_an_entry_that_only_the_modelling_file_asks_for_by_name_is_set():
    """`getattr(config, "head_dim", ...)`: the default configuration does not have it."""
    assert load_configuration("qwen3_moe", {"head_dim": 16}).head_dim == 16


@pytest.mark.parametrize(
    ("kind", "name", "said"),
    [
        ("llama", "num_hiden_layers", r"LlamaConfig has no such entry; did you mean num_hidden_layers\?$"),
        ("llama", "quantum", "LlamaConfig has no such entry$"),
        (
            "gemma3",
            "text_config.hiden_size",
            r"Gemma3TextConfig has no such entry; did you mean text_config.hidden_size",
        ),
    ],
)
def test_a_misspelt_entry_is_one_line(kind, name, said):
    with pytest.raises(CannotRunError, match=f"--set {name}: {said}"):
        load_configuration(kind, {name: 1})


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("gpt2", "num_attention_heads"),  # n_head's other name
        ("hunyuan_v1_moe", "num_local_experts"),
        ("llama", "rope_parameters.factor"),
    ],
)
def test_an_entry_by_another_name_or_of_a_dictionary_is_known(kind, name):
    load_configuration(kind, {name: 4})


def test_attention_is_the_one_that_is_asked_for():
    assert load_configuration("llama", {})._attn_implementation == "eager"
    assert load_configuration("llama", {"attn_implementation": "sdpa"})._attn_implementation == "sdpa"


@pytest.mark.parametrize("name", ["attn_implementation", "experts_implementation"])
def test_code_from_the_network_is_not_loaded(name):
    with pytest.raises(CannotRunError, match=f"--set {name}=someone/kernels: give eager or "):
        load_configuration("llama", {name: "someone/kernels"})


def test_a_configuration_that_needs_padding_gets_the_first_id():
    assert load_configuration("glm_image_text", {}).pad_token_id == 0
    assert load_configuration("apertus", {}).pad_token_id is None


@pytest.mark.parametrize(("count", "kinds"), [(1, "s"), (2, "sf"), (5, "sfsfs")])
def test_another_number_of_layers_goes_on_with_their_kinds(count, kinds):
    config = load_configuration("gemma3_text", {"num_hidden_layers": count})
    assert [kind[0] for kind in config.layer_types] == list(kinds)


def test_sections_are_filled_by_their_own_modelling_files():
    assert "mrope_section" not in load_configuration("qwen2_5_vl", {}).text_config.rope_parameters
    text = load_configuration("qwen2_5_vl", {}, fill=True).text_config
    assert sum(text.rope_parameters["mrope_section"]) == text.hidden_size // text.num_attention_heads // 2


def test_padding_is_given_to_every_section_that_has_an_entry_for_it():
    config = load_configuration("t5gemma", {}, pad=True)
    assert (config.encoder.pad_token_id, config.decoder.pad_token_id) == (0, 0)
    assert load_configuration("t5gemma", {}).decoder.pad_token_id is None
    assert load_configuration("glm_image", {}).text_config.pad_token_id == 0  # which has no configuration without
