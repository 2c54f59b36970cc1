"""PyTorch's own test models for tensor parallelism, with the plans that stand beside them."""

import pytest
import torch
import torch.nn.functional as F
from torch.distributed.tensor import DTensor, Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.testing._internal.distributed._tensor.common_dtensor import MLPModule, ModelArgs, Transformer

import shardproof as sp

LIBRARY = "torch"
WHAT = "common_dtensor.Transformer by its own `parallelize`"


def make_step(steps=1, **args):
    """All 16 positions and all 8 tokens occur; attention takes local tensors, as DTensor has no attention on CPUs."""
    ids = torch.arange(32).view(2, 16) * 3 % 8
    return sp.Step(
        model=lambda: Transformer(ModelArgs(n_layers=1, dropout_p=0.0, **args)),
        batch=(ids, ids.roll(-1, 1)),
        loss=lambda logits, targets: F.cross_entropy(logits.flatten(0, 1), targets.flatten()),
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=1e-2),
        steps=steps,
    )


def make_parallelize(*, sequence, spoil=lambda model: None):
    def parallelize(model, mesh):
        model = Transformer.parallelize(model, mesh, sequence, local_output_for_attn=True)
        spoil(model)
        return model

    return parallelize


@pytest.mark.parametrize("sequence", [False, True])
def test_the_transformer_is_proved(answers, sequence):
    what = WHAT + (", sequence parallel" if sequence else "")
    answers.proves(what, make_step(2), parallelize=make_parallelize(sequence=sequence), devices=2, trials=1)


def test_checkpointed_layers_are_proved(answers):
    step = make_step(checkpoint_activations=True)
    parallelize = make_parallelize(sequence=False)
    answers.proves(f"{WHAT}, activation checkpointing", step, parallelize=parallelize, devices=2, trials=1)


def untie(model):
    model.output.weight = torch.nn.Parameter(model.output.weight.detach().clone())


def add_bias_again(model):
    """The bias of a row linear that each rank adds."""
    feed_forward = model.layers[0].feed_forward.w2
    bias = feed_forward.bias.to_local().detach()
    feed_forward.register_forward_hook(lambda _module, _inputs, output: output + bias)


@pytest.mark.parametrize(
    ("planted", "named", "sequence", "spoil"),
    [
        ("the output layer is not tied to the embedding again", "output.weight", False, untie),
        ("a row linear's bias is added twice", "feed_forward.w2", False, add_bias_again),
    ],
)
def test_bugs_are_caught(answers, planted, named, sequence, spoil):
    parallelize = make_parallelize(sequence=sequence, spoil=spoil)
    answers.catches(WHAT, planted, named, make_step(), parallelize=parallelize, devices=2)


def test_a_bug_of_its_own_is_caught(answers):
    """TensorParallelForExpert hands the experts a plain tensor, whose gradient is not summed over ranks."""
    answers.catches(
        f"{WHAT}, num_experts=4",
        "none: PyTorch's own (TensorParallelForExpert)",
        "sum over tp is right",
        make_step(num_experts=4),
        parallelize=make_parallelize(sequence=False),
        devices=2,
    )


class TakesPartial(RowwiseParallel):
    """A row linear whose output is taken for replicated before it is summed."""

    @staticmethod
    def _prepare_output_fn(output_layouts, use_local_output, mod, outputs, device_mesh):
        return DTensor.from_local(outputs.to_local(), device_mesh, [Replicate()]).to_local()


def make_mlp_step():
    draws = torch.Generator().manual_seed(0)
    batch = (torch.randn(4, 10, generator=draws), torch.randn(4, 10, generator=draws))
    return sp.Step(
        model=lambda: MLPModule("cpu"),
        batch=batch,
        loss=F.mse_loss,
        steps=2,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    )


def shard_mlp(rowwise):
    return lambda model, mesh: parallelize_module(model, mesh, {"net1": ColwiseParallel(), "net2": rowwise()})


def test_the_mlp_is_proved(answers):
    answers.proves("common_dtensor.MLPModule", make_mlp_step(), parallelize=shard_mlp(RowwiseParallel), devices=2)


def test_a_partial_output_is_caught(answers):
    planted = "the row linear's partial output is taken for the sum"
    answers.catches(
        "common_dtensor.MLPModule", planted, "net2", make_mlp_step(), parallelize=shard_mlp(TakesPartial), devices=2
    )
