"""Megatron-core: its GPT, and its linear layers under sequence parallelism.

Megatron asks `torch.cuda` for the current device and has no name for a CPU there, so that function says "cpu" here;
its random state is the one of its inference, which needs no GPU. Nothing of Megatron's own is changed.
"""

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from megatron.core import parallel_state
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.tensor_parallel import (
    ColumnParallelLinear,
    RowParallelLinear,
    gather_from_sequence_parallel_region,
    scatter_to_sequence_parallel_region,
)
from megatron.core.tensor_parallel.random import initialize_rng_tracker
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import nn

import shardproof as sp

LIBRARY = "megatron-core"
GPT = "GPTModel: embedding, attention, MLP, tied output layer, vocabulary-parallel cross-entropy"
LAYERS = "ColumnParallelLinear and RowParallelLinear, sequence parallel, behind a norm"


def say_cpu():
    return "cpu"


torch.cuda.current_device = say_cpu


def make_config(**changes):
    """Without the fused kernels, which need a GPU."""
    given = {
        "num_layers": 1,
        "hidden_size": 16,
        "num_attention_heads": 4,
        "ffn_hidden_size": 24,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        "use_cpu_initialization": True,
        "gradient_accumulation_fusion": False,
        "bias_activation_fusion": False,
        "bias_dropout_fusion": False,
        "masked_softmax_fusion": False,
        "persist_layer_norm": False,
    }
    return TransformerConfig(**(given | changes))


def build_gpt(tensor_parallel=1):
    torch.cuda.current_device = say_cpu  # in a rank's process too
    initialize_rng_tracker(inference_rng_tracker=True)
    parallel_state.destroy_model_parallel()
    parallel_state.initialize_model_parallel(tensor_parallel)
    return GPTModel(
        make_config(tensor_model_parallel_size=tensor_parallel),
        get_gpt_layer_local_spec(),
        vocab_size=16,
        max_sequence_length=8,
        share_embeddings_and_output_weights=True,
        position_embedding_type="learned_absolute",
    )


def split_gpt(model, mesh):
    """Each parameter says itself along which dim it is split."""
    part, whole = build_gpt(mesh.size()).to(next(model.parameters()).dtype), dict(model.named_parameters())
    with torch.no_grad():
        for name, parameter in part.named_parameters():
            value = whole[name]
            if getattr(parameter, "tensor_model_parallel", False):
                value = value.chunk(mesh.size(), parameter.partition_dim)[mesh.get_local_rank()]
            parameter.copy_(value)
    return part


def forget_input_gradients(model, mesh):
    model = split_gpt(model, mesh)
    first = model.decoder.layers[0].mlp.linear_fc1
    first.allreduce_dgrad, first.disable_grad_reduce = False, True
    return model


def start_vocabulary_early(model, mesh):
    model = split_gpt(model, mesh)
    words = model.embedding.word_embeddings
    early = int(words.vocab_start_index > 0)
    words.vocab_start_index, words.vocab_end_index = words.vocab_start_index - early, words.vocab_end_index - early
    return model


def compute_loss(model, ids):
    positions = torch.arange(8).expand_as(ids)
    mask = ~torch.ones(1, 1, 8, 8, dtype=torch.bool).tril()
    return model(ids, positions, mask, labels=ids.roll(-1, 1)).mean()


@pytest.fixture
def one_device():
    """The group of the process that runs the step on one device: Megatron's model needs one."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    parallel_state.destroy_model_parallel()
    dist.destroy_process_group()


def make_gpt_step():
    return sp.Step(
        model=build_gpt,
        batch=torch.arange(16).view(2, 8),
        forward=compute_loss,
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=1e-2),
        steps=1,
    )


@pytest.mark.usefixtures("one_device")
def test_the_gpt_is_proved(answers):
    answers.proves(GPT, make_gpt_step(), parallelize=split_gpt, devices=2, spawn=True, trials=1)


@pytest.mark.usefixtures("one_device")
@pytest.mark.parametrize(
    ("planted", "named", "parallelize"),
    [
        (
            "linear_fc1 does not sum the gradient of its input (disable_grad_reduce)",
            "WRONG - ranks hold partial values whose sum over tp is right",
            forget_input_gradients,
        ),
        (
            "the range of a rank's vocabulary begins one id early",
            "output embedding.word_embeddings WRONG",
            start_vocabulary_early,
        ),
    ],
)
def test_bugs_of_the_gpt_are_caught(answers, planted, named, parallelize):
    answers.catches(GPT, planted, named, make_gpt_step(), parallelize=parallelize, devices=2, spawn=True)


class Plain(nn.Module):
    """What the layers compute on one device: x is [sequence, batch, hidden]."""

    def __init__(self):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 24), nn.Linear(24, 16)

    def forward(self, x):
        return x + self.down(F.gelu(self.up(self.norm(x))))


class Split(nn.Module):
    def __init__(self, model):
        super().__init__()
        config = make_config(tensor_model_parallel_size=2, sequence_parallel=True, params_dtype=model.up.weight.dtype)
        settings = {"config": config, "init_method": nn.init.zeros_, "bias": True, "skip_bias_add": False}
        self.norm = model.norm
        self.up = ColumnParallelLinear(16, 24, gather_output=False, **settings)
        self.down = RowParallelLinear(24, 16, input_is_parallel=True, **settings)

    def forward(self, x):
        x = scatter_to_sequence_parallel_region(x)
        x = x + self.down(F.gelu(self.up(self.norm(x))[0]))[0]
        return gather_from_sequence_parallel_region(x, tensor_parallel_output_grad=False)


def make_split(*, sums=("norm.weight", "norm.bias", "down.bias")):
    """With the sum over ranks that Megatron's finalize_model_grads makes of replicated parameters' gradients."""

    def split(model, mesh):
        torch.cuda.current_device = say_cpu
        if not parallel_state.model_parallel_is_initialized():
            parallel_state.initialize_model_parallel(mesh.size())
        layers, rank, size = Split(model), mesh.get_local_rank(), mesh.size()
        with torch.no_grad():
            layers.up.weight.copy_(model.up.weight.chunk(size)[rank])
            layers.up.bias.copy_(model.up.bias.chunk(size)[rank])
            layers.down.weight.copy_(model.down.weight.chunk(size, 1)[rank])
            layers.down.bias.copy_(model.down.bias)
        for name in sums:
            layers.get_parameter(name).register_hook(lambda g: (dist.all_reduce(g := g.clone()), g)[1])
        return layers

    return split


def make_layers_step():
    draws = torch.Generator().manual_seed(0)
    batch = (torch.randn(6, 2, 16, generator=draws), torch.randn(6, 2, 16, generator=draws))
    return sp.Step(
        model=Plain,
        batch=batch,
        loss=F.mse_loss,
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=1e-2),
        steps=1,
    )


def test_layers_are_proved(answers):
    answers.proves(LAYERS, make_layers_step(), parallelize=make_split(), devices=2, trials=1)


@pytest.mark.parametrize(
    ("planted", "named", "sums"),
    [
        ("gradients of the norm are not summed", "gradient norm.weight WRONG", ["down.bias"]),
        (
            "the gradient of the row linear's bias is not summed",
            "gradient down.bias WRONG",
            ["norm.weight", "norm.bias"],
        ),
    ],
)
def test_bugs_of_layers_are_caught(answers, planted, named, sums):
    named = f"{named} - ranks hold partial values whose sum over tp is right"
    answers.catches(
        LAYERS, planted, named, make_layers_step(), parallelize=make_split(sums=sums), devices=2, spawn=True
    )
