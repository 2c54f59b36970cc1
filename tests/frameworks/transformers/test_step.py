"""A step on a transformers model: small unless it is set otherwise, with a loss of its own or cotangents."""

import json

import pytest
import torch

from shardproof.errors import CannotRunError
from shardproof.frameworks.transformers import OneDeviceError, tiny_step

pytest.importorskip("transformers")


def test_a_model_is_tiny_unless_it_is_set_otherwise():
    model = tiny_step("llama", {"num_hidden_layers": 1, "hidden_size": 16}).model()
    assert (model.config.num_hidden_layers, model.config.hidden_size, model.config.vocab_size) == (1, 16, 64)
    assert model.training
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_sizes_of_a_file_that_are_small_already_stay(tmp_path):
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
        ("[]", "has no model_type"),
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


def test_a_model_that_does_not_run_on_one_device_is_called_that():
    with pytest.raises(OneDeviceError, match="LlamaForCausalLM of this configuration does not run on one device"):
        tiny_step("llama", {"hidden_act": "no-such-activation"})


def test_the_users_layer_count_fits_lists_of_layers():
    model = tiny_step("qwen3", {"num_hidden_layers": 3}).model()
    assert len(model.model.layers) == 3


def test_a_model_with_a_head_has_its_own_loss():
    batch = tiny_step("qwen3", {}).batch
    assert set(batch) == {"inputs"}
    assert set(batch["inputs"]) == {"input_ids", "labels"}


@pytest.mark.parametrize(
    ("kind", "inputs"),
    [
        ("qwen2_vl_text", {"input_ids"}),
        ("ernie4_5_vl_moe_vision", {"hidden_states", "grid_thw"}),
        ("gemma4_vision", {"pixel_values", "pixel_position_ids"}),
        ("llama4_vision_model", {"pixel_values"}),
        ("muse_glimmer_assistant", {"noise_embeds", "context_hidden_states", "attention_mask"}),
        ("t5gemma2_decoder", {"input_ids", "encoder_hidden_states"}),
    ],
)
def test_a_model_without_a_head_has_cotangents_for_its_outputs(kind, inputs):
    step = tiny_step(kind, {})
    assert set(step.batch["inputs"]) == inputs
    model = step.model()
    loss = step.compute_loss(model, step.batch)
    assert loss.ndim == 0
    loss.backward()
    reached = [parameter.grad is not None and bool(parameter.grad.any()) for parameter in model.parameters()]
    assert sum(reached) > len(reached) / 2


def test_cotangents_weigh_each_element():
    step = tiny_step("qwen2_vl_text", {})
    model = step.model().double()
    cotangents = [one.double() for one in step.batch["cotangents"]]
    batch = {**step.batch, "cotangents": cotangents}
    outputs = model(**batch["inputs"]).last_hidden_state
    expected = (outputs * cotangents[0]).sum() / len(outputs)
    assert torch.allclose(step.compute_loss(model, batch), expected)
    assert not torch.allclose(step.compute_loss(model, {**batch, "cotangents": [cotangents[0] * 2]}), expected)
