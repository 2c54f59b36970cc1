"""Mending a wrong plan: the search keeps an entry only if the proof with it is better, and ends after its tries."""

from dataclasses import replace

import pytest

import shardproof as sp
from shardproof.errors import CannotRunError
from shardproof.frameworks.transformers import OwnPlan, PlanChange, find_mend, tiny_step

pytest.importorskip("transformers")
SUMS = "replicated_with_grad_allreduce"


class Search:
    """A wrong plan of one layer, and the entries that were tried."""

    def __init__(self, kind, *, drop=(), put=None, **settings):
        self.step = replace(tiny_step(kind, {"num_hidden_layers": 1, **settings}), steps=1, optimizer=None)
        self.drop, self.put, self.tried = drop, put or {}, []

    def change(self, entries):
        return OwnPlan(change=PlanChange(drop=self.drop, put={**self.put, **entries}))

    def attempt(self, entries):
        self.tried.append(dict(entries))
        return sp.prove(self.step, parallelize=self.change(entries), devices=2, trials=1)

    def find(self, **limits):
        proof = sp.prove(self.step, parallelize=self.change({}), devices=2, trials=1)
        assert not proof.ok
        return find_mend(
            proof,
            self.step,
            lambda model, entries: self.change(entries).resolve(model, {"tp": 2}),
            self.attempt,
            **limits,
        )


def test_gradients_that_lack_a_sum_are_summed_together():
    search = Search("qwen3", drop=("*q_norm", "*k_norm"))
    found = search.find()
    assert found.entries == {f"model.layers.*.self_attn.{name}_norm": SUMS for name in "qk"}
    assert (found.tried, found.proof.ok) == (1, True)


def test_another_style_on_the_entry_that_is_wrong():
    found = Search("mixtral", put={"*.experts.gate_up_proj": "colwise"}).find()
    assert found.entries == {"model.layers.*.mlp.experts.gate_up_proj": "packed_colwise"}
    assert found.proof.ok


def test_an_entry_that_should_not_be_there_is_taken_back():
    found = Search("llama", put={"*.input_layernorm": SUMS}).find()
    assert found.entries == {"model.layers.*.input_layernorm": "replicate"}
    assert found.proof.ok


def test_two_mistakes_are_mended_one_after_the_other():
    search = Search("qwen3", drop=("*q_norm",), put={"*.input_layernorm": "all_reduce"})
    found = search.find()
    assert found.entries == {
        "model.layers.*.input_layernorm": "replicate",
        "model.layers.*.self_attn.q_norm": SUMS,
    }
    assert search.tried[-1] == found.entries
    assert found.proof.ok


@pytest.mark.slow
def test_a_neighbour_of_what_is_wrong():
    latent = {"kv_lora_rank": 16, "q_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8}
    settings = latent | {"head_dim": 4, "num_key_value_heads": 4}
    found = Search("minicpm3", put={"*.kv_a_proj_with_mqa": "replicate"}, **settings).find()
    assert found.entries == {"model.layers.*.self_attn.kv_a_proj_with_mqa": "mla_kv_a_proj"}


class Doubled(Search):
    """A gradient that is wrong whatever the plan is."""

    def change(self, entries):
        plan = super().change(entries)

        class Sharding:
            resolve = staticmethod(plan.resolve)

            def __call__(self, model, mesh):
                model = plan(model, mesh)
                model.model.norm.weight.register_hook(lambda gradient: gradient * 2)
                return model

        return Sharding()


def test_what_no_entry_mends_is_given_up_after_so_many_tries():
    search = Doubled("llama")
    found = search.find(most=3)
    assert (found.entries, found.proof, found.tried) == ({}, None, 3)
    assert len(search.tried) == 3


def test_no_try_begins_after_the_time():
    found = Doubled("llama").find(seconds=-1)
    assert (found.proof, found.tried) == (None, 0)


class Crashing(Search):
    def attempt(self, entries):
        self.tried.append(dict(entries))
        raise CannotRunError("rank 0: crash")


def test_an_entry_with_which_the_model_cannot_run_mends_nothing():
    found = Crashing("llama", put={"*.input_layernorm": SUMS}).find(most=2)
    assert (found.proof, found.tried) == (None, 2)
