"""Split MLPs are the whole ones: proved with every option, each beside a bug that is caught."""

import pytest
import torch
import torch.nn.functional as F
from tests.parallel.ranks import alone, check_traffic, make_step, proof_of, random
from torch import nn
from torch.distributed.tensor import Replicate, Shard

from shardproof.parallel.collectives import gather_shards, take_shard
from shardproof.parallel.linear import ColumnLinear
from shardproof.parallel.mlp import MLP, GatedMLP
from shardproof.proving.records import ACTIVATIONS

H, W, S = 4, 7, 5


class Model(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.mlp = kind.of_sizes(H, W, bias=True)

    def forward(self, x):
        return x + self.mlp(x)


def step(kind):
    return make_step(lambda: Model(kind), (random(2, S, H), random(2, S, H)), loss=F.mse_loss)


def split(model, axis):
    model.mlp = type(model.mlp).from_mlp(model.mlp, axis)


def split_sequence(model, axis):
    model.mlp = type(model.mlp).from_mlp(model.mlp, axis, placement=Shard(1), length=S)
    whole = model.forward
    model.forward = lambda x: gather_shards(whole(take_shard(x, axis, dim=1)), axis, dim=1, total=S)


@pytest.mark.parametrize("change", [split, split_sequence])
@pytest.mark.parametrize("devices", [2, 3])
@pytest.mark.parametrize("kind", [MLP, GatedMLP])
def test_a_split_mlp_is_proved(kind, devices, change):
    proof = proof_of(step(kind), change, devices)
    assert proof.ok, proof.roots


def test_more_ranks_than_its_width_is_proved():
    step = make_step(lambda: nn.Sequential(GatedMLP.of_sizes(H, 3)), (random(5, H), random(5, H)), loss=F.mse_loss)

    def change(model, axis):
        model[0] = GatedMLP.from_mlp(model[0], axis)

    assert proof_of(step, change, 4).ok


def test_gate_and_up_cut_as_one_are_found():
    """M21."""

    def change(model, axis):
        whole = model.mlp.gate_up
        split(model, axis)
        model.mlp.gate_up = ColumnLinear.from_linear(whole, axis)

    step = make_step(even, (random(2, S, H), random(2, S, H)), loss=F.mse_loss)
    proof = proof_of(step, change, 2)
    assert not proof.ok
    assert {f.key.phase for f in proof.roots} <= ACTIVATIONS


def even():
    """Of a width that ranks divide: else the shapes would tell."""
    model = Model(GatedMLP)
    model.mlp = GatedMLP.of_sizes(H, 6)
    return model


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("kind", [MLP, GatedMLP])
@pytest.mark.parametrize("placement", [Replicate(), Shard(1)])
def test_the_calls_are_those_predicted(kind, size, placement):
    with alone(size) as axis:
        mlp = kind.from_mlp(kind.of_sizes(H, W), axis, placement=placement)
        assert check_traffic(mlp, axis, torch.randn(2, 3, H, requires_grad=True))
