"""Published configurations are reduced under every condition; one that cannot be is one line that names it."""

import json
from pathlib import Path

import pytest

from shardproof.errors import CannotRunError
from shardproof.frameworks.transformers.plans import OwnPlan, PlanChange
from shardproof.frameworks.transformers.reduction import reduce_configuration

pytest.importorskip("transformers")

DATA = Path(__file__).parent / "data"
OWN = OwnPlan(change=PlanChange())


def reduce(name, mesh, plan=OWN, **settings):
    return reduce_configuration(str(DATA / f"{name}.json"), settings, mesh, plan)


@pytest.mark.parametrize(
    ("name", "mesh", "billions", "kept"),
    [
        ("llama-3.1-405b", {"tp": 8}, 405.9, (0, 1)),
        ("llama-3.1-405b", {"dp": 8, "tp": 8}, 405.9, (0, 1)),
        ("llama-3.1-405b", {"dp": 16, "tp": 8}, 405.9, (0, 1)),
        ("deepseek-v3", {"tp": 8}, 671.0, (0, 1, 3, 4)),
        ("deepseek-v3", {"tp": 16}, 671.0, (0, 1, 3, 4)),
        ("deepseek-v3", {"dp": 8, "tp": 8}, 671.0, (0, 1, 3, 4)),
        ("qwen3-235b-a22b", {"tp": 4}, 235.1, (0, 1)),
        ("qwen3-235b-a22b", {"dp": 16, "tp": 4}, 235.1, (0, 1)),
        ("mixtral-8x22b", {"tp": 8}, 140.6, (0, 1)),
        ("mixtral-8x22b", {"dp": 8, "tp": 8}, 140.6, (0, 1)),
    ],
)
def test_published_configurations_are_reduced(name, mesh, billions, kept):
    found = reduce(name, mesh)
    reduction, given = found.reduction, json.loads((DATA / f"{name}.json").read_text())
    assert round(reduction.parameters / 1e9, 1) == billions
    assert reduction.kept == kept
    assert reduction.reduced_parameters < 13e6
    assert [condition.name for condition in reduction.conditions] == ["counts", "layers", "division", "roles", "plan"]
    for field in ("num_attention_heads", "num_key_value_heads", "num_experts_per_tok", "n_routed_experts"):
        assert getattr(found.config, field, None) == given.get(field)
    assert {"hidden_size", "vocab_size"} <= {size.name for size in reduction.sizes}


def test_every_split_is_of_the_same_kind_at_both_sizes():
    sizes = {size.name: size for size in reduce("llama-3.1-405b", {"tp": 8}, vocab_size=128257).reduction.sizes}
    assert sizes["vocab_size"].reduced % 8 == 128257 % 8 == 1
    even = {size.name: size for size in reduce("llama-3.1-405b", {"tp": 8}).reduction.sizes}
    assert even["vocab_size"].reduced % 8 == 0


def test_code_of_the_users_may_split_any_dim_over_any_axes():
    mesh = {"dp": 2, "tp": 4}
    own, any_code = (reduce("mixtral-8x22b", mesh, plan).reduction for plan in (OWN, None))
    assert own.reduced_parameters < any_code.reduced_parameters
    assert [condition.name for condition in any_code.conditions] == ["counts", "layers", "division", "roles"]


def test_experts_are_computed_in_one_product_unless_it_is_set_otherwise():
    assert reduce("mixtral-8x22b", {"tp": 8}).config._experts_implementation == "batched_mm"
    looped = reduce("mixtral-8x22b", {"tp": 8}, experts_implementation="eager", attn_implementation="sdpa").config
    assert (looped._experts_implementation, looped._attn_implementation) == ("eager", "sdpa")
    assert reduce("llama-3.1-405b", {"tp": 8}).config._attn_implementation == "eager"


def test_windows_are_shorter_than_a_row_of_tokens_and_both_kinds_of_attention_stay():
    reduced = reduce_configuration("gemma3_text", {}, {"tp": 2}, OWN)
    assert reduced.config.sliding_window == 4
    assert reduced.config.layer_types == ["sliding_attention"] * 2 + ["full_attention", "sliding_attention"]
    assert reduced.reduction.kept == (0, 1, 5, 6)


@pytest.mark.parametrize(
    ("source", "mesh", "settings", "said"),
    [
        ("llama-3.1-405b", {"tp": 16}, {}, "16 ranks cannot share 8 heads"),
        ("qwen3-235b-a22b", {"tp": 8}, {}, "8 ranks cannot share 4 heads"),
        ("mixtral-8x22b", {"tp": 8}, {"num_attention_heads": 44}, "8 ranks cannot share 44 heads"),
    ],
)
def test_ranks_that_cannot_share_the_heads_are_one_line(source, mesh, settings, said):
    with pytest.raises(CannotRunError, match=said) as caught:
        reduce(source, mesh, **settings)
    assert "\n" not in str(caught.value)


def test_a_configuration_with_sections_is_one_line_that_names_the_condition():
    with pytest.raises(CannotRunError, match="condition layers: the configuration has sections of its own"):
        reduce_configuration("gemma3", {}, {"tp": 2}, OWN)


def test_a_plan_that_names_a_layer_by_its_number_is_not_that_of_fewer_layers():
    plan = {"layers.0.mlp.up_proj": "colwise", "layers.0.mlp.gate_proj": "colwise", "layers.0.mlp.down_proj": "rowwise"}
    late = {name.replace("0", "100"): style for name, style in plan.items()}
    with pytest.raises(CannotRunError, match="matches no module"):
        reduce("llama-3.1-405b", {"tp": 2}, OwnPlan(change=PlanChange(instead=late)))
