"""Candidates for a wrong plan: by the first cause, near modules and likely styles first, only where they fit."""

import pytest

from shardproof.frameworks.transformers import OwnPlan, PlanChange, tiny_step
from shardproof.frameworks.transformers.plan_candidates import (
    generalize,
    list_candidates,
    list_run_order,
    suggest_sums,
)
from shardproof.proving.cause import Cause, CauseKind, Mend
from shardproof.proving.findings import Finding, Verdict
from shardproof.proving.records import Key, Phase

pytest.importorskip("transformers")
STYLE = "replicated_with_grad_allreduce"


def root(name, phase=Phase.GRADIENT, mend=Mend.ALL_REDUCE_GRADIENT, kind=CauseKind.MISSING_ALL_REDUCE):
    cause = Cause(kind=kind, axes=("tp",), mend=mend)
    return Finding(key=Key(0, phase, name), verdict=Verdict.WRONG, cause=cause, root=True)


def test_layers_share_an_entry_and_names_with_digits_stay():
    names = ("model.layers.0.attn.q_norm.weight", "model.layers.12.attn.q_norm.weight", "model.norm2.weight")
    assert suggest_sums(map(root, names)) == {"model.layers.*.attn.q_norm": STYLE, "model.norm2": STYLE}


@pytest.mark.parametrize(
    "other",
    [
        root("model.layers.0.mlp", phase=Phase.OUTPUT),
        root("model.layers.0.mlp.weight", mend=Mend.AVERAGE_GRADIENT),
        Finding(key=Key(0, Phase.GRADIENT, "x.weight"), verdict=Verdict.WRONG, root=True),
    ],
)
def test_with_another_cause_beside_it_gradients_are_not_summed_together(other):
    assert suggest_sums([root("model.norm.weight"), other]) == {}


def test_of_no_causes_nothing_is_suggested():
    assert suggest_sums([]) == {}


def test_numbers_of_layers_are_generalized():
    assert generalize("model.layers.3.block.12.w1") == "model.layers.*.block.*.w1"


@pytest.fixture(scope="module")
def mixtral():
    step = tiny_step("mixtral", {"num_hidden_layers": 1})
    model = step.model()
    return model, list_run_order(step, model), OwnPlan(change=PlanChange()).resolve(model, {"tp": 2})


def candidates(mixtral, *roots):
    return list(list_candidates(roots, *mixtral))


def test_modules_are_listed_as_they_run(mixtral):
    order = mixtral[1]
    layer = "model.layers.0"
    ran = ["input_layernorm", "self_attn.q_proj", "self_attn.o_proj", "self_attn", "post_attention_layernorm", "mlp"]
    places = [order.index(f"{layer}.{name}") for name in ran]
    assert places == sorted(places)
    assert set(order) == {name for name, _ in mixtral[0].named_modules() if name}


def test_the_module_that_is_wrong_comes_first(mixtral):
    found = candidates(mixtral, root("model.layers.0.self_attn.k_proj", Phase.OUTPUT, None, CauseKind.UNEXPLAINED))
    assert found[0] == {"model.layers.*.self_attn.k_proj": "packed_colwise"}
    assert [len(one) for one in found[:7]] == [1, 1, 1, 1, 1, 4, 1]  # the attention unsplit, after five entries
    assert len({tuple(one.items()) for one in found}) == len(found)
    assert all(name.startswith("model.layers.*.") for one in found for name in one)


def test_what_the_plan_has_already_is_no_candidate(mixtral):
    found = candidates(mixtral, root("model.layers.0.self_attn.k_proj", Phase.OUTPUT, None, CauseKind.UNEXPLAINED))
    assert {"model.layers.*.self_attn.k_proj": "colwise"} not in found
    assert {"model.layers.*.input_layernorm": "replicate"} not in found  # as without an entry


def test_styles_stand_where_they_fit(mixtral):
    model = mixtral[0]
    found = candidates(mixtral, root("model.layers.0.mlp.experts", Phase.OUTPUT, Mend.ALL_REDUCE_IN_FORWARD))
    styles = {name: {one[name] for one in found if name in one} for one in found for name in one}
    assert "packed_rowwise" in styles["model.layers.*.mlp.experts.gate_up_proj"]
    assert not {"rowwise", "embedding_rowwise", "mla_kv_a_proj"} & styles["model.layers.*.mlp.experts"]
    assert STYLE not in styles["model.layers.*.mlp.experts.act_fn"]  # it has no parameters
    assert not any("model.layers.*.mlp.gate.weight" in one for one in found)
    assert not hasattr(model.config, "qk_rope_head_dim")


def test_a_wrong_gradient_of_an_output_is_looked_for_behind_it(mixtral):
    at = "model.layers.0.input_layernorm"
    found = candidates(mixtral, root(at, Phase.OUTPUT_GRADIENT, None, CauseKind.UNEXPLAINED))
    names = list(dict.fromkeys(name for one in found for name in one))
    assert names.index("model.layers.*.self_attn.q_proj") < names.index("model.layers.*.mlp.experts")


def test_a_plan_decides_no_dropout_mask(mixtral):
    assert candidates(mixtral, root("model.layers.0.self_attn", Phase.MASK, None, CauseKind.MASK_SHARED)) == []


def test_a_module_outside_the_layers_is_looked_for_in_the_whole_model(mixtral):
    found = candidates(mixtral, root("model.norm.weight", kind=CauseKind.SCALED, mend=None))
    assert {"lm_head": "replicate"} in found


@pytest.mark.parametrize("part", ["", "[0]", "/softmax"])
def test_a_tensor_of_a_module_is_looked_for_at_the_module(mixtral, part):
    at = f"model.layers.0.mlp.experts.act_fn{part}"
    found = candidates(mixtral, root(at, Phase.INPUT, None, CauseKind.UNEXPLAINED))
    assert {"model.layers.*.mlp.experts.gate_up_proj": "colwise"} in found
    assert found == candidates(mixtral, root(at.removesuffix(part), Phase.INPUT, None, CauseKind.UNEXPLAINED))


@pytest.mark.parametrize(
    ("at", "unsplit"),
    [
        ("self_attn.k_proj", {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"}),
        ("self_attn", {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"}),
        ("self_attn/softmax", {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"}),
        ("mlp.experts.act_fn[0]", {"mlp.experts", "mlp.experts.gate_up_proj", "mlp.experts.down_proj"}),
    ],
)
def test_a_block_may_be_left_unsplit(mixtral, at, unsplit):
    found = candidates(mixtral, root(f"model.layers.0.{at}", Phase.OUTPUT, None, CauseKind.UNEXPLAINED))
    assert {f"model.layers.*.{name}": "replicate" for name in unsplit} in found[:6]


def test_a_layer_is_never_left_unsplit_as_a_whole(mixtral):
    found = candidates(mixtral, root("model.layers.0.input_layernorm", Phase.OUTPUT, None, CauseKind.UNEXPLAINED))
    assert {len(one) for one in found} == {1}
