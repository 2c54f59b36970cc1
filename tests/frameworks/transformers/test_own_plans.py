"""transformers' own plans where they need more than llama's: tied weights, experts, parameters of an activation."""

from dataclasses import replace

import pytest

import shardproof as sp
from shardproof.frameworks.transformers import OwnPlan, PlanChange, tiny_step
from shardproof.proving.cause import CauseKind
from shardproof.proving.findings import Verdict

pytest.importorskip("transformers")


def prove_plan(source, *, drop=(), put=None, **settings):
    step = replace(tiny_step(source, {"num_hidden_layers": 1, **settings}), steps=1)
    return sp.prove(step, parallelize=OwnPlan(change=PlanChange(drop=drop, put=put)), devices=2, trials=1)


def test_tied_weights_are_sharded_and_tied_again():
    assert prove_plan("gemma").ok


def test_a_gradient_of_a_tied_weight_that_is_too_large_is_seen():
    step = tiny_step("gemma", {"num_hidden_layers": 1})

    def shard(model, mesh):
        model = OwnPlan(change=PlanChange())(model, mesh)
        model.lm_head.weight.register_hook(lambda gradient: gradient * 2)
        return model

    root = sp.prove(replace(step, steps=1), parallelize=shard, devices=2, trials=1).roots[0]
    assert sp.describe(root) == "step 1, gradient model.embed_tokens.weight WRONG - 2 times too large"


def test_tied_models_keep_one_parameter():
    step = tiny_step("gemma", {"num_hidden_layers": 1})
    tied = []

    def shard(model, mesh):
        model = OwnPlan(change=PlanChange())(model, mesh)
        tied.append(model.lm_head.weight is model.model.embed_tokens.weight)
        return model

    sp.prove(replace(step, steps=1, optimizer=None), parallelize=shard, devices=2, trials=1)
    assert len(tied) >= 2
    assert all(tied)


def test_experts_are_proved_and_their_missing_reduction_is_seen():
    assert prove_plan("mixtral").ok
    root = prove_plan("mixtral", put={"*.experts": "local_params"}).roots[0]
    assert (root.verdict, root.key.name) == (Verdict.WRONG, "model.layers.0.mlp.experts")
    assert root.cause.kind is CauseKind.UNREDUCED


def test_buffers_that_are_zero_before_training_are_drawn():
    sizes = {"n_routed_experts": 4, "n_shared_experts": 1, "first_k_dense_replace": 0}
    assert prove_plan("dots1", **sizes).ok


def test_attention_with_sinks_is_proved():
    assert prove_plan("gpt_oss").ok


LATENT = {"kv_lora_rank": 16, "q_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8}


def test_a_projection_that_is_used_whole_in_one_part_and_by_heads_in_another():
    """Each rank has its share of a part of the output's gradient, inside the style that sums them."""
    settings = LATENT | {"head_dim": 4, "num_key_value_heads": 4}
    assert prove_plan("minicpm3", **settings).ok
    root = prove_plan("minicpm3", put={"*.kv_a_proj_with_mqa": "replicate"}, **settings).roots[0]
    assert root.verdict is Verdict.WRONG
    assert str(root.key) == "step 1, output gradient model.layers.0.input_layernorm"


def test_the_parameters_of_an_activation_between_column_and_row_need_their_gradients_summed():
    """Apertus' own plan lacks an entry for them; see docs/mutants.md."""
    roots = prove_plan("apertus").roots
    assert {root.key.name for root in roots} == {f"model.layers.0.mlp.act_fn.alpha_{sign}" for sign in "pn"}
    assert {root.cause.kind for root in roots} == {CauseKind.MISSING_ALL_REDUCE}
    assert prove_plan("apertus", put={"model.layers.*.mlp.act_fn": "replicated_with_grad_allreduce"}).ok
