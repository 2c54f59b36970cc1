"""Plans given by the user, heads that ranks cannot share, and crashes of sharded code in one line."""

import json
from dataclasses import replace

import pytest
import torch

import shardproof as sp
from shardproof.errors import CannotRunError
from shardproof.frameworks.specification import Specification
from shardproof.frameworks.transformers import OwnPlan, PlanChange, ShardedCrashError, tiny_step
from shardproof.frameworks.transformers.plans import _listed, _read_heads, find_plan

pytest.importorskip("transformers")

# The heads of llama alone, with names within the base model.
HEADS = {"layers.*.self_attn.q_proj": "colwise", "layers.*.self_attn.k_proj": "colwise"}
REST = {"layers.*.self_attn.v_proj": "colwise", "layers.*.self_attn.o_proj": "rowwise"}


@pytest.fixture(scope="module")
def model():
    return tiny_step("llama", {"num_hidden_layers": 1}).model()


def test_a_plan_given_has_an_entry_for_each_module_that_it_names(model):
    plan = find_plan(model, None, {**HEADS, "model.norm.weight": "replicate"})
    layer = "model.layers.0.self_attn"
    split = {f"{layer}.{name}{of}": "colwise" for name in ("q_proj", "k_proj") for of in ("", ".weight")}
    assert plan == {**split, "model.norm.weight": "replicate"}


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ({"layers.*.nothing": "colwise"}, "matches no module and no parameter of LlamaForCausalLM"),
        ({"layers.*.mlp.up_proj": "sideways"}, "no such style; there are "),
    ],
)
def test_a_plan_that_does_not_fit_is_one_line(model, plan, said):
    with pytest.raises(CannotRunError, match=said):
        find_plan(model, None, plan)


def prove_with(change, **settings):
    step = replace(tiny_step("llama", {"num_hidden_layers": 1, **settings}), steps=1, optimizer=None)
    return sp.prove(step, parallelize=OwnPlan(change=change), devices=2, trials=1)


def test_a_plan_given_is_proved_instead_of_the_models_own():
    assert prove_with(PlanChange(instead=HEADS | REST)).ok
    wrong = HEADS | REST | {"layers.*.input_layernorm": "replicated_with_grad_allreduce"}
    (root,) = prove_with(PlanChange(instead=wrong)).roots
    assert sp.describe(root) == "step 1, gradient model.layers.0.input_layernorm.weight WRONG - 2 times too large"


def test_heads_that_ranks_cannot_share_are_one_line():
    with pytest.raises(
        CannotRunError, match=r"2 ranks cannot share 1 heads: the plan splits model.layers.0.self_attn.k_proj"
    ):
        prove_with(PlanChange(), num_key_value_heads=1)


def test_heads_of_a_section_are_set_by_its_name():
    model = tiny_step("paligemma", {"text_config.num_hidden_layers": 1}).model()
    with pytest.raises(CannotRunError, match=r"Give --set text_config\.num_key_value_heads=2$"):
        OwnPlan(change=PlanChange()).require_shared(model, {"tp": 2})


def test_a_crash_names_module_line_entry_and_that_one_device_runs():
    change = PlanChange(drop=("*k_proj",))  # its weight goes with it
    with pytest.raises(CannotRunError) as caught:
        prove_with(change)
    said = str(caught.value)
    assert "\n" not in said
    assert "LlamaForCausalLM runs on one device and fails when it is sharded" in said
    assert "in module model.layers.0.self_attn" in said
    assert "transformers/" in said
    assert "model.layers.0.self_attn.q_proj=colwise" in said
    assert isinstance(caught.value.__cause__, ShardedCrashError)


def test_a_plan_file_is_read_and_named(tmp_path):
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(HEADS))
    specification = Specification(step="hf:llama", plan=str(path))
    assert specification.files == (str(path),)
    assert specification.load().parallelize.change.instead == HEADS


def test_a_plan_may_stand_in_a_python_file(tmp_path):
    (tmp_path / "mine.py").write_text(f"plan = {HEADS}\nother = 3\n")
    assert Specification(step="hf:llama", plan=f"{tmp_path}/mine.py:plan").load().parallelize.change.instead == HEADS
    with pytest.raises(CannotRunError, match="needed is an object of styles by pattern"):
        Specification(step="hf:llama", plan=f"{tmp_path}/mine.py:other").load()


@pytest.mark.parametrize(
    ("content", "said"), [("{", "cannot be read"), ("[]", "needed is an object"), ('{"a": 1}', "needed")]
)
def test_a_file_that_is_no_plan_is_one_line(tmp_path, content, said):
    path = tmp_path / "plan.json"
    path.write_text(content)
    with pytest.raises(CannotRunError, match=said):
        Specification(step="hf:llama", plan=str(path)).load()


def test_full_size_memory_and_plan_are_for_hf_models():
    for changes in ({"full_size": True}, {"memory": 2.0}, {"plan": "x.json"}):
        with pytest.raises(CannotRunError, match="are for an hf: model"):
            Specification(step="mine.py:step", parallelize="mine.py:f", **changes).load()
    with pytest.raises(CannotRunError, match="--memory -1"):
        Specification(step="hf:llama", memory=-1.0).load()


def resolve(model, **put):
    return OwnPlan(change=PlanChange(instead=HEADS, put=put)).resolve(model, {"tp": 2})


def test_parameters_take_the_style_of_their_module_unless_they_have_an_entry_of_their_own(model):
    layer = "model.layers.0.self_attn"
    changed = resolve(model, **{"*.q_proj": "rowwise"})
    assert changed[f"{layer}.q_proj"] == changed[f"{layer}.q_proj.weight"] == "rowwise"
    assert changed[f"{layer}.k_proj"] == changed[f"{layer}.k_proj.weight"] == "colwise"
    added = resolve(model, **{"*.o_proj": "rowwise"})
    assert added[f"{layer}.o_proj"] == added[f"{layer}.o_proj.weight"] == "rowwise"
    own = PlanChange(instead=HEADS | {"*.q_proj.weight": "replicate"}, put={"*.q_proj": "rowwise"})
    kept = OwnPlan(change=own).resolve(model, {"tp": 2})
    assert (kept[f"{layer}.q_proj"], kept[f"{layer}.q_proj.weight"]) == ("rowwise", "replicate")


def test_an_entry_may_name_parameters_alone(model):
    changed = resolve(model, **{"*.q_proj.weight": "packed_colwise"})
    layer = "model.layers.0.self_attn"
    assert (changed[f"{layer}.q_proj"], changed[f"{layer}.q_proj.weight"]) == ("colwise", "packed_colwise")


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
        (PlanChange(put={"*nothing*": "colwise"}), r"--plan-set \*nothing\*: no module and no parameter matches"),
    ],
)
def test_a_change_that_does_not_fit_the_plan_is_refused(change, said):
    model = tiny_step("llama", {"num_hidden_layers": 1}).model()
    with pytest.raises(CannotRunError, match=said):
        OwnPlan(change=change)(model, Mesh("tp"))


@pytest.mark.parametrize("change", [PlanChange(drop=("*",)), PlanChange(put={"*": "colwise"})])
def test_a_change_of_the_plan_needs_an_axis_tp(change):
    with pytest.raises(CannotRunError, match="change the plan over tp or ep; the mesh has dp"):
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


class PerLayer:
    @property
    def num_key_value_heads(self):
        raise ValueError("ask each layer")


def test_heads_that_each_layer_has_for_itself_are_not_checked():
    assert _read_heads(PerLayer(), "num_key_value_heads") is None
    assert _read_heads(PerLayer(), "absent") is None
