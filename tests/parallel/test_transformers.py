"""transformers' models by their own plans, without DTensor: proved, and wrong plans found."""

from collections import Counter
from dataclasses import replace
from fnmatch import fnmatch

import pytest
from tests.parallel.ranks import alone, calls_of
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from shardproof.errors import CannotRunError
from shardproof.frameworks.transformers import tiny_step
from shardproof.parallel import GPT2_PLAN, CausalLoss, Column, parallelize, sharding_of, traffic_of
from shardproof.parallel.traffic import count_calls
from shardproof.proving.cause import CauseKind
from shardproof.proving.prove import prove
from shardproof.proving.records import ACTIVATIONS, Phase

SMALL = {"num_hidden_layers": 1, "vocab_size": 19, "hidden_size": 24, "intermediate_size": 20, "head_dim": 4}
GPT2 = {
    "vocab_size": 19,
    "n_embd": 24,
    "n_layer": 1,
    "n_inner": 20,
    "n_positions": 16,
    "resid_pdrop": 0.0,
    "attn_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "bos_token_id": None,
    "eos_token_id": None,
}


def heads(queries, kv):
    return {"num_attention_heads": queries, "num_key_value_heads": kv}


def make(kind, **settings):
    step = tiny_step(kind, (GPT2 if kind == "gpt2" else SMALL) | settings)
    return replace(step, steps=1, clip_norm=None)


def proof_of(kind, devices, plan=None, **settings):
    def change(model, mesh):
        return parallelize(model, mesh, plan or (GPT2_PLAN if kind == "gpt2" else None))

    return prove(make(kind, **settings), parallelize=change, devices=devices, trials=1)


@pytest.mark.parametrize(
    ("kind", "devices", "settings"),
    [
        pytest.param("llama", 2, heads(4, 2), id="llama-2"),
        pytest.param("llama", 3, heads(6, 3), id="llama-3"),
        pytest.param("llama", 4, heads(4, 2) | {"attention_bias": True}, id="llama-4, two ranks a KV head"),
        pytest.param("qwen3", 2, heads(4, 2) | {"tie_word_embeddings": True}, id="qwen3-2, tied"),
        pytest.param("qwen3", 3, heads(6, 1), id="qwen3-3, one KV head"),
        pytest.param("gpt2", 2, {"n_head": 4}, id="gpt2-2"),
        pytest.param("gpt2", 3, {"n_head": 6}, id="gpt2-3"),
        pytest.param("gpt2", 4, {"n_head": 4}, id="gpt2-4"),
        pytest.param("mixtral", 2, heads(4, 2), id="mixtral-2"),
        pytest.param("mixtral", 4, heads(4, 4), id="mixtral-4"),
    ],
)
def test_a_transformer_is_proved(kind, devices, settings):
    proof = proof_of(kind, devices, **settings)
    assert proof.ok, proof.roots


@pytest.mark.parametrize(("kind", "devices"), [("llama", 3), ("gpt2", 2)])
def test_a_loss_of_logits_that_are_never_gathered_is_proved(kind, devices):
    settings = {"n_head": 4} if kind == "gpt2" else heads(6, 3)
    plan = (GPT2_PLAN if kind == "gpt2" else own_plan(kind, **settings)) | {"lm_head": "colwise", "": CausalLoss()}
    proof = proof_of(kind, devices, plan, **settings)
    assert proof.ok, proof.roots


@pytest.mark.parametrize(
    ("kind", "settings", "size"),
    [("llama", heads(4, 2), 4), ("mixtral", heads(4, 2), 2), ("gpt2", {"n_head": 4}, 2)],
)
def test_the_calls_are_those_that_the_plan_predicts(kind, settings, size):
    with alone(size) as axis:
        mesh = init_device_mesh("cpu", (axis.size,), mesh_dim_names=("tp",))
        step = make(kind, **settings)
        model = parallelize(step.model(), mesh, GPT2_PLAN if kind == "gpt2" else None)
        pairs = [pair for pairs in traffic_of(model).values() for pair in pairs]
        predicted = [
            sum((count_calls(getattr(one, way), among) for among, one in pairs), start=Counter())
            for way in ("forward", "backward")
        ]
        loss = []
        assert calls_of(lambda: loss.append(step.compute_loss(model, step.batch))) == predicted[0]
        assert calls_of(lambda: loss[0].backward()) == predicted[1]
        assert 0 < predicted[0].total() != predicted[1].total() > 0


def test_a_model_with_another_loss_is_refused():
    with alone(2) as axis:
        mesh = init_device_mesh("cpu", (axis.size,), mesh_dim_names=("tp",))
        with pytest.raises(CannotRunError, match="Linear has loss_function None; needed is a causal"):
            parallelize(nn.Linear(2, 2), mesh, {"": CausalLoss()})


def own_plan(kind, **settings):
    return make(kind, **settings).model().tp_plan


def without(plan, pattern):
    return {name: style for name, style in plan.items() if not fnmatch(name, pattern)}


def test_a_head_norm_left_out_of_the_plan_is_named():
    proof = proof_of("qwen3", 2, without(own_plan("qwen3", **heads(4, 2)), "*q_norm"), **heads(4, 2))
    assert {(f.key.phase, f.key.name) for f in proof.roots} == {
        (Phase.GRADIENT, "model.layers.0.self_attn.q_norm.weight")
    }
    assert proof.roots[0].cause.kind is CauseKind.MISSING_ALL_REDUCE


def test_queries_keys_and_values_cut_as_one_are_found():
    """M20: the shapes are right, what is taken for queries is not."""
    plan = GPT2_PLAN | {"transformer.h.*.attn.c_attn": Column(parts=1)}
    proof = proof_of("gpt2", 2, plan, n_head=4)
    assert not proof.ok
    assert proof.roots[0].key.phase in ACTIVATIONS
    assert ".attn" in proof.roots[0].key.name


@pytest.mark.parametrize(("style", "name"), [("colwise", "gate_up_proj"), ("replicate", "")])
def test_experts_cut_wrongly_or_not_summed_are_found(style, name):
    """M21, and an expert block that nobody sums."""
    plan = own_plan("mixtral", **heads(4, 2))
    place = f"model.layers.*.mlp.experts.{name}".removesuffix(".")
    assert place in plan
    proof = proof_of("mixtral", 2, plan | {place: style}, **heads(4, 2))
    assert not proof.ok
    assert ".mlp" in proof.roots[0].key.name


def test_no_parameter_is_a_dtensor_and_all_carry_their_sharding():
    def change(model, mesh):
        model = parallelize(model, mesh)
        assert not any(isinstance(parameter, DTensor) for parameter in model.parameters())
        assert all(sharding_of(parameter) for parameter in model.parameters())
        assert model.lm_head.weight is model.model.embed_tokens.weight
        return model

    step = make("qwen3", **heads(4, 2), tie_word_embeddings=True)
    assert prove(replace(step, optimizer=None), parallelize=change, devices=2, trials=1).ok
