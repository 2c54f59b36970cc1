"""peft's LoRA on a Llama: data parallel, and with the layers below it split by tensor parallelism."""

import pytest
import torch
import torch.distributed as dist
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from tests.others.steps import make_optimizer
from torch import nn
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel
from transformers import LlamaConfig, LlamaForCausalLM

import shardproof as sp

LIBRARY = "peft"
REPLICAS, SPLIT = "LoRA on a Llama in DistributedDataParallel", "LoRA on a Llama split by torch's styles, adapters too"

CONFIG = LlamaConfig(
    vocab_size=32,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=1,
    num_attention_heads=4,
    num_key_value_heads=4,
    attn_implementation="eager",
)


def make_model():
    lora = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "o_proj"], init_lora_weights=False)
    return get_peft_model(LlamaForCausalLM(CONFIG), lora)


def make_trained(model):
    return make_optimizer([one for one in model.parameters() if one.requires_grad])


def make_step():
    return sp.Step(
        model=make_model,
        batch=torch.randint(0, 32, (4, 5), generator=torch.Generator().manual_seed(0)),
        forward=lambda model, ids: model(input_ids=ids, labels=ids).loss,
        optimizer=lambda parameters: make_optimizer([one for one in parameters if one.requires_grad]),
        steps=1,
    )


def make_replicas(scale=1.0):
    """Rank 1's adapters count `scale` times as much as they should."""

    def wrap(model, rank):
        for module in model.modules():
            if rank == 1 and isinstance(module, LoraLayer):
                module.scaling["default"] *= scale
        return DistributedDataParallel(model)

    return wrap


def make_train(wrap):
    def train(run):
        model = wrap(run.model(), run.rank)
        optimizer = make_trained(model)
        for ids in run.batches():
            optimizer.zero_grad()
            rows = ids.chunk(run.size)[run.rank]
            loss = model(input_ids=rows, labels=rows).loss
            loss.backward()
            dist.all_reduce(total := loss.detach().clone())
            run.record_loss(total / run.size)
            run.record_gradients()
            optimizer.step()
            run.record_update(optimizer)

    return train


def test_replicas_are_proved(answers):
    answers.proves(REPLICAS, make_step(), candidate=make_train(make_replicas()), mesh={"dp": 2}, trials=1)


@pytest.mark.parametrize(
    ("planted", "scale"), [("adapters on rank 0 alone", 0.0), ("lora_alpha is twice as large on rank 1", 2.0)]
)
def test_bugs_of_replicas_are_caught(answers, planted, scale):
    train = make_train(make_replicas(scale))
    proof = answers.catches(REPLICAS, planted, "q_proj WRONG", make_step(), candidate=train, mesh={"dp": 2})
    assert "on rank 1" in sp.describe(proof.roots[0])


BASE = {"q_proj.base_layer": ColwiseParallel, "k_proj": ColwiseParallel, "v_proj": ColwiseParallel}
PLAN = BASE | {"o_proj.base_layer": RowwiseParallel}
ADAPTERS = {"q_proj.lora_B.default": ColwiseParallel, "o_proj.lora_A.default": RowwiseParallel}


def split(model, mesh, plan):
    attention = "base_model.model.model.layers.*.self_attn."
    return parallelize_module(model, mesh, {attention + name: style() for name, style in plan.items()})


def split_all(model, mesh):
    return split(model, mesh, PLAN | ADAPTERS)


def split_by_hand(model, mesh):
    """B of the query's adapter is cut without a collective for the gradient of its input."""
    model = split(model, mesh, PLAN | {"o_proj.lora_A.default": RowwiseParallel})
    for layer in model.base_model.model.model.layers:
        b = layer.self_attn.q_proj.lora_B.default
        b.weight = nn.Parameter(b.weight.detach().chunk(mesh.size())[mesh.get_local_rank()].clone())
    return model


def test_split_layers_are_proved(answers):
    answers.proves(SPLIT, make_step(), parallelize=split_all, devices=2, trials=1)


def test_a_missing_all_reduce_is_caught(answers):
    planted = "lora_B is cut by hand: the gradient of its input is not summed"
    named = "q_proj.lora_A.default WRONG - ranks hold partial values whose sum over tp is right"
    answers.catches(SPLIT, planted, named, make_step(), parallelize=split_by_hand, devices=2)
