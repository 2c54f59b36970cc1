"""Split `Conv1D` layers are the whole one's: outputs and gradients, beside a cut along the wrong dim."""

import pytest
import torch
from tests.parallel.ranks import alone, check_traffic, random, run
from transformers.pytorch_utils import Conv1D

from shardproof.parallel.conv1d import ColumnConv1D, RowConv1D
from shardproof.parallel.sharding import Section, sharding_of, take

I, O = 5, 6


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("kind", [ColumnConv1D, RowConv1D])
def test_outputs_and_gradients_are_those_of_the_whole_layer(kind, size):
    torch.manual_seed(0)
    whole = Conv1D(O, I).double()
    with torch.no_grad():
        whole.bias.copy_(random(O))
    x = random(4, I).requires_grad_()
    z, cotangent = whole(x), random(4, O, seed=2)
    gradients = torch.autograd.grad(z, [x, whole.weight, whole.bias], cotangent)

    def on_rank(axis):
        layer = kind.from_conv1d(whole, axis)
        columns = kind is ColumnConv1D
        own_x = (x if columns else x.tensor_split(size, 1)[axis.rank]).detach().requires_grad_()
        own_z = layer(own_x)
        own_cotangent = cotangent.tensor_split(size, 1)[axis.rank] if columns else cotangent
        close(own_z, z.tensor_split(size, 1)[axis.rank] if columns else z)
        found = torch.autograd.grad(own_z, [own_x, layer.weight, layer.bias], own_cotangent)
        close(found[0], gradients[0] if columns else gradients[0].tensor_split(size, 1)[axis.rank])
        for gradient, full, parameter in zip(found[1:], gradients[1:], layer.parameters(), strict=True):
            close(gradient, take(full, sharding_of(parameter)))

    run(size, on_rank)


def test_fused_outputs_are_cut_each_by_itself():
    whole = Conv1D(8, I)
    halves = [Section(length=4), Section(length=4)]
    z = whole(torch.ones(I)).detach()
    found = run(2, lambda axis: ColumnConv1D.from_conv1d(whole, axis, sections=halves)(torch.ones(I)).detach())
    torch.testing.assert_close(found, [z[[0, 1, 4, 5]], z[[2, 3, 6, 7]]])
    cut_as_one = run(2, lambda axis: ColumnConv1D.from_conv1d(whole, axis)(torch.ones(I)).detach())
    assert not torch.equal(cut_as_one[0], found[0])


@pytest.mark.parametrize("size", [2, 3])
def test_the_calls_are_those_predicted(size):
    with alone(size) as axis:
        whole = Conv1D(6, 6)
        assert check_traffic(ColumnConv1D.from_conv1d(whole, axis), axis, torch.ones(2, 6, requires_grad=True))
        row = RowConv1D.from_conv1d(whole, axis)
        assert check_traffic(row, axis, torch.ones(2, row.weight.shape[0], requires_grad=True))
