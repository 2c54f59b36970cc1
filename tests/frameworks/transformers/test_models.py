"""Which class is built, what it is called with, and how large it may be."""

import pytest
import torch
from torch import nn

from shardproof.errors import CannotRunError
from shardproof.frameworks.transformers import tiny_step
from shardproof.frameworks.transformers.configuration import load_configuration
from shardproof.frameworks.transformers.models import TooLargeError, build_model, find_model_class, require_memory

pytest.importorskip("transformers")


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("llama", "LlamaForCausalLM"),
        ("esmc", "EsmcForMaskedLM"),
        ("internlm3", "LlamaForCausalLM"),  # has no modelling file of its own
        ("qwen2_vl_text", "Qwen2VLTextModel"),  # no class with a head
        ("dots3_note_vision_encoder", "Dots3NoteVisionModel"),  # in no table
        ("t5_gemma_module", "T5GemmaEncoder"),  # a section of what the class declares
        ("llama4", "Llama4ForConditionalGeneration"),  # the table of causal models names another's class
    ],
)
def test_the_class_of_a_type(kind, name):
    assert find_model_class(load_configuration(kind, {})).__name__ == name


def test_a_model_is_built_in_float32_for_training():
    config = load_configuration("llama", {"dtype": "bfloat16"})
    model = build_model(find_model_class(config), config)
    assert model.training
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_a_model_over_the_memory_is_not_built():
    config = load_configuration("llama", {}, full_size=True)
    with pytest.raises(
        TooLargeError, match=r"has 6,738,415,616 parameters, 50\.2 GiB in float64; at most 1 GiB is built"
    ):
        require_memory(find_model_class(config), config, 1 << 30)
    small = load_configuration("llama", {})
    require_memory(find_model_class(small), small, 1 << 30)


def test_full_size_is_refused_in_one_line():
    with pytest.raises(CannotRunError, match="Leave --full-size out, make it smaller by --set, or raise --memory"):
        tiny_step("llama", {}, full_size=True)


class HalfInitialised(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.given = nn.Parameter(torch.full((3,), 2.0))
        self.left = nn.Parameter(torch.empty(64, 64))
        self.register_buffer("scale", torch.empty(4))


def test_memory_that_a_model_leaves_uninitialised_is_drawn_by_the_seed():
    before = torch.are_deterministic_algorithms_enabled()
    torch.manual_seed(0)
    first = build_model(HalfInitialised, None)
    torch.manual_seed(0)
    second = build_model(HalfInitialised, None)
    assert torch.equal(first.left, second.left)
    assert torch.equal(first.scale, second.scale)
    assert float(first.left.detach().std()) == pytest.approx(0.02, rel=0.1)
    assert first.given.tolist() == [2.0, 2.0, 2.0]
    assert torch.are_deterministic_algorithms_enabled() is before
