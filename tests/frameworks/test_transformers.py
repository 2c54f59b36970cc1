"""Tiny transformers models: their configuration, their token ids, and changes of their plan. Nothing is proved here."""

import json

import pytest
import torch

from shardproof.errors import CannotRunError
from shardproof.frameworks.transformers import IGNORED, OwnPlan, PlanChange, _listed, probing_ids, tiny_step
from shardproof.worlds.communicator import shard_range

pytest.importorskip("transformers")


@pytest.mark.parametrize("vocabulary", [64, 61, 33])
@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_both_edges_of_every_even_shard_of_the_vocabulary_are_probed(vocabulary, ranks):
    ids = set(probing_ids(vocabulary, seed=0).flatten().tolist())
    for rank in range(ranks):
        start, stop = shard_range(vocabulary, rank, ranks)
        assert {start, stop - 1} <= ids, (rank, start, stop)


def test_ids_are_drawn_by_the_seed_and_lie_in_the_vocabulary():
    ids = probing_ids(64, seed=1)
    assert torch.equal(ids, probing_ids(64, seed=1))
    assert not torch.equal(ids, probing_ids(64, seed=2))
    assert 0 <= int(ids.min()) <= int(ids.max()) < 64


def test_a_small_vocabulary_is_probed_as_far_as_there_are_tokens():
    assert set(probing_ids(3, seed=0).flatten().tolist()) <= {0, 1, 2}


def test_each_row_of_the_batch_ignores_as_many_tokens_and_others():
    _, labels = tiny_step("llama", {}).batch
    ignored = labels == IGNORED
    assert ignored.sum(1).tolist() == [3, 3]
    assert not torch.equal(ignored[0], ignored[1])


def test_a_model_is_tiny_unless_it_is_set_otherwise():
    model = tiny_step("llama", {"num_hidden_layers": 1, "hidden_size": 16}).model()
    assert (model.config.num_hidden_layers, model.config.hidden_size, model.config.vocab_size) == (1, 16, 64)
    assert model.training
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_a_configuration_from_a_file_keeps_its_own_sizes(tmp_path):
    small = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "llama", "vocab_size": 50, "num_key_value_heads": 2, **small}))
    config = tiny_step(str(path), {"hidden_size": 8}).model().config
    assert (config.vocab_size, config.intermediate_size, config.hidden_size) == (50, 24, 8)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{not json", "is no configuration that can be read"),
        ("{}", "has no model_type"),
        ('{"model_type": 3}', "has no model_type"),
        ('{"model_type": "no-such"}', "transformers makes no configuration of 'no-such'"),
    ],
)
def test_a_file_that_is_no_configuration_is_one_line(tmp_path, content, said):
    path = tmp_path / "config.json"
    path.write_text(content)
    with pytest.raises(CannotRunError, match=said) as caught:
        tiny_step(str(path), {})
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(CannotRunError, match="is no configuration that can be read"):
        tiny_step(str(tmp_path / "absent.json"), {})


class Mesh:
    """A mesh as far as a refusal looks at it."""

    def __init__(self, *names):
        self.mesh_dim_names = names

    def __getitem__(self, _names):
        return self

    def size(self):
        return 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (PlanChange(drop=("*nothing*",)), r"--plan-drop \*nothing\*: no entry of the plan matches; it has "),
        (PlanChange(put={"*q_proj": "sideways"}), r"--plan-set \*q_proj=sideways: no such style; there are "),
        (PlanChange(put={"*nothing*": "colwise"}), r"--plan-set \*nothing\*: no module matches"),
    ],
)
def test_a_change_that_does_not_fit_the_plan_is_refused(change, said):
    model = tiny_step("llama", {"num_hidden_layers": 1}).model()
    with pytest.raises(CannotRunError, match=said):
        OwnPlan(change=change)(model, Mesh("tp"))


@pytest.mark.parametrize("change", [PlanChange(drop=("*",)), PlanChange(put={"*": "colwise"})])
def test_a_change_of_the_plan_needs_an_axis_tp(change):
    with pytest.raises(CannotRunError, match="change the plan over tp; the mesh has dp"):
        OwnPlan(change=change)(torch.nn.Linear(2, 2), Mesh("dp"))


def test_a_model_without_a_plan_is_refused():
    model = tiny_step("gpt2", {"n_layer": 1, "n_embd": 16, "n_head": 2}).model()
    with pytest.raises(
        CannotRunError, match="GPT2LMHeadModel has no tensor-parallel plan of its own; give --parallelize"
    ):
        OwnPlan(change=PlanChange())(model, Mesh("tp"))


def test_a_long_list_of_names_is_cut():
    assert _listed("abcdef") == "a, b, c, d, e, f"
    assert _listed("abcdefgh") == "a, b, c, d, e, f and 2 more"
