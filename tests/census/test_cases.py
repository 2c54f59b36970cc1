"""The model types of a census, and the variants of one."""

import pytest

from shardproof.census.cases import list_types, list_variants

pytest.importorskip("transformers")


def test_types_are_those_whose_configuration_has_a_plan():
    kinds = list_types()
    assert {"llama", "qwen3", "gemma4_vision", "esmc"} <= set(kinds)
    assert not {"gpt2", "bert"} & set(kinds)
    assert len(kinds) == len(set(kinds))


def test_an_axis_of_experts_takes_the_types_with_an_expert_parallel_plan():
    kinds = list_types(["ep", "tp"])
    assert {"mixtral", "qwen3_moe", "gpt_oss"} <= set(kinds)
    assert "llama" not in kinds


def test_wrappers_are_those_with_a_section_that_has_a_plan():
    kinds = list_types(wrappers=True)
    assert {"llava", "qwen2_5_vl", "t5gemma", "colpali"} <= set(kinds)
    assert not set(kinds) & {*list_types(), "clip", "gpt2"}


def test_the_default_stands_first_and_features_are_turned_over():
    variants = dict(list_variants("llama"))
    assert next(iter(variants)) == "default"
    assert variants["attention_bias=true"] == {"attention_bias": True}
    assert variants["tie_word_embeddings=true"] == {"tie_word_embeddings": True}
    assert variants["attention_dropout=0.1"] == {"attention_dropout": 0.1}


def test_a_feature_that_is_on_is_turned_off():
    assert dict(list_variants("gemma"))["tie_word_embeddings=false"] == {"tie_word_embeddings": False}


def test_fields_that_change_no_plan_are_no_variants():
    names = [name for name, _ in list_variants("qwen2_moe")]
    assert "output_router_logits=true" in names
    assert not [name for name in names if name.startswith(("use_cache", "return_dict", "norm_topk"))]
