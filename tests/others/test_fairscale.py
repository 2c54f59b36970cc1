"""fairscale's model-parallel layers in a small language model: embedding, column and row linears, cross-entropy."""

import fairscale.nn.model_parallel as mpu
import pytest
import torch
import torch.nn.functional as F
from fairscale.nn.model_parallel.cross_entropy import vocab_parallel_cross_entropy
from fairscale.nn.model_parallel.initialize import model_parallel_is_initialized
from fairscale.nn.model_parallel.layers import ColumnParallelLinear, RowParallelLinear, VocabParallelEmbedding
from torch import nn

import shardproof as sp

LIBRARY = "fairscale"
WHAT = "VocabParallelEmbedding, ColumnParallelLinear, RowParallelLinear, vocab_parallel_cross_entropy"


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.up, self.down = nn.Embedding(16, 8), nn.Linear(8, 12), nn.Linear(12, 8)
        self.head, self.loss = nn.Linear(8, 16, bias=False), F.cross_entropy

    def forward(self, batch):
        ids, targets = batch
        h = self.embed(ids)
        h = h + self.down(F.relu(self.up(h)))
        return self.loss(self.head(h).flatten(0, 1), targets.flatten()).mean()


class EntersWithoutReduction(ColumnParallelLinear):
    """Without `copy_to_model_parallel_region`, whose backward sums the gradient of the input."""

    def forward(self, x):
        return F.linear(x, self.weight, self.bias)


class AddsBiasBefore(RowParallelLinear):
    """Adds the bias to each rank's part, before the parts are summed."""

    def forward(self, x):
        return mpu.mappings.reduce_from_model_parallel_region(F.linear(x, self.weight, self.bias))


class StartsEarly(VocabParallelEmbedding):
    """The range of every rank but the first begins and ends one id too early."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        early = int(self.vocab_start_index > 0)
        self.vocab_start_index -= early
        self.vocab_end_index -= early


def make_parallelize(embed=VocabParallelEmbedding, down=RowParallelLinear, head=ColumnParallelLinear):
    def parallelize(model, mesh):
        if not model_parallel_is_initialized():
            mpu.initialize_model_parallel(mesh.size())
        layers = {
            "embed": embed(16, 8),
            "up": ColumnParallelLinear(8, 12, gather_output=False),
            "down": down(12, 8, input_is_parallel=True),
            "head": head(8, 16, bias=False, gather_output=False),
        }
        rank, size = mpu.get_model_parallel_rank(), mpu.get_model_parallel_world_size()
        for name, layer in layers.items():
            whole = getattr(model, name)
            layer.to(whole.weight.dtype)
            with torch.no_grad():
                layer.weight.copy_(whole.weight.chunk(size, 1 if name == "down" else 0)[rank])
                if name == "up":
                    layer.bias.copy_(whole.bias.chunk(size)[rank])
                if name == "down":
                    layer.bias.copy_(whole.bias)
            setattr(model, name, layer)
        model.loss = vocab_parallel_cross_entropy
        return model

    return parallelize


def make_step(steps=2):
    ids = torch.tensor([[0, 3, 4, 7, 8, 15, 10, 11], [5, 1, 2, 6, 9, 14, 12, 13]])
    return sp.Step(
        model=Net,
        batch=(ids, ids.roll(1, -1)),
        forward=lambda model, batch: model(batch),
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=1e-2),
        steps=steps,
    )


def test_layers_are_proved(answers):
    answers.proves(WHAT, make_step(), parallelize=make_parallelize(), devices=2)


@pytest.mark.parametrize(
    ("planted", "named", "layers"),
    [
        (
            "the head's input gradient is not summed",
            "input gradient head WRONG - ranks hold partial values",
            {"head": EntersWithoutReduction},
        ),
        (
            "the row linear's bias is added on each rank",
            "output down WRONG - off by the same vector",
            {"down": AddsBiasBefore},
        ),
        ("the range of a rank's vocabulary begins one id early", "output embed WRONG", {"embed": StartsEarly}),
    ],
)
def test_bugs_are_caught(answers, planted, named, layers):
    answers.catches(WHAT, planted, named, make_step(1), parallelize=make_parallelize(**layers), devices=2)
