"""Models around a text model: transformers puts the plans of the parts together, and images reach the vision tower."""

from dataclasses import replace

import pytest

import shardproof as sp
from shardproof.frameworks.transformers import OwnPlan, PlanChange, tiny_step
from shardproof.proving.findings import Verdict

pytest.importorskip("transformers")


def prove_wrapper(kind, put=None):
    step = replace(tiny_step(kind, {"text_config.num_hidden_layers": 1}), steps=1)
    return sp.prove(step, parallelize=OwnPlan(change=PlanChange(put=put)), devices=2, trials=1)


def test_the_plan_of_the_text_model_stands_with_its_prefix():
    model = tiny_step("mistral3", {}).model()
    plan = OwnPlan(change=PlanChange()).resolve(model, {"tp": 2})
    assert plan["model.language_model.layers.0.self_attn.q_proj"] == "colwise"
    assert not [name for name in plan if "vision" in name]


@pytest.mark.parametrize("kind", ["mistral3", "qwen2_5_vl"])
def test_images_and_text_are_proved(kind):
    proof = prove_wrapper(kind)
    assert proof.ok
    assert any("vis" in finding.key.name for finding in proof.findings)


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("*language_model.layers.0.input_layernorm", "model.language_model.layers.0.input_layernorm.weight"),
        ("*vision_tower.patch_conv", "model.vision_tower.patch_conv.weight"),  # text alone would not reach it
    ],
)
def test_a_gradient_that_is_summed_once_too_often_is_seen_in_each_part(pattern, name):
    root = prove_wrapper("mistral3", {pattern: "replicated_with_grad_allreduce"}).roots[0]
    assert (root.verdict, root.key.name) == (Verdict.WRONG, name)
    assert sp.describe(root).endswith("2 times too large")


def test_a_layer_that_the_model_does_not_use_is_vacuous():
    """LLaVA takes the features before the last layer of its tower: nothing trains that one."""
    proof = prove_wrapper("llava")
    assert not proof.ok
    assert {finding.verdict for finding in proof.findings} == {Verdict.PROVED, Verdict.VACUOUS}
    assert all("vision_tower" in one.key.name for one in proof.findings if one.verdict is Verdict.VACUOUS)
