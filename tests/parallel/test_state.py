"""The training state by name: each tensor with its sharding; settings and dropout counts come back."""

import pytest
import torch
from tests.parallel.ranks import run
from torch import nn, optim

from shardproof.errors import CannotRunError
from shardproof.parallel.dropout import PositionalDropout
from shardproof.parallel.linear import ColumnLinear
from shardproof.parallel.sharding import split
from shardproof.parallel.state import (
    dropout_calls,
    empty_state,
    restore_dropout_calls,
    restore_settings,
    settings_of,
    states_of_optimizer,
    tensors_of_model,
)


def tied():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    model.register_buffer("kept", torch.ones(1))
    model.register_buffer("temporary", torch.ones(1), persistent=False)
    return model


def test_a_tied_parameter_is_there_once_and_only_persistent_buffers_are():
    model = tied()
    tensors = tensors_of_model(model, None)
    assert list(tensors) == ["0.weight", "0.bias", "1.bias", "kept"]
    tensors["0.weight"].local.fill_(5)  # the program's own memory
    assert model[1].weight.unique().tolist() == [5]


def test_state_of_its_parameters_shape_is_sharded_as_the_parameter():
    def on_rank(axis):
        layer = ColumnLinear.from_linear(nn.Linear(3, 4), axis)
        optimizer = optim.Adam(layer.parameters())
        layer(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        states = states_of_optimizer(layer, optimizer, axis)["weight"]
        return {name: (state.sharding.dim, state.sharding.shape) for name, state in states.items()}

    for found in run(2, on_rank):
        assert found == {"step": (None, ()), "exp_avg": (0, (4, 3)), "exp_avg_sq": (0, (4, 3))}


def test_settings_come_back_as_they_were():
    model = tied()
    optimizer = optim.AdamW(model.parameters(), lr=0.1, betas=(0.5, 0.75))
    saved = settings_of(model, optimizer)
    assert saved[0]["params"] == ["0.weight", "0.bias", "1.bias"]
    other = optim.AdamW(model.parameters(), lr=torch.tensor(0.9), betas=(0.1, 0.2))
    restore_settings(other, saved)
    assert other.param_groups[0]["betas"] == (0.5, 0.75)
    assert isinstance(other.param_groups[0]["lr"], torch.Tensor)
    assert float(other.param_groups[0]["lr"]) == pytest.approx(0.1)
    optimizer.param_groups[0]["odd"] = object()
    with pytest.raises(CannotRunError, match="the optimizer's odd is a object"):
        settings_of(model, optimizer)


def test_dropout_counts_come_back():
    model, other = nn.Sequential(PositionalDropout(0.5, 1)), nn.Sequential(PositionalDropout(0.5, 1))
    model(torch.ones(3))
    assert dropout_calls(model) == {"0": 1}
    restore_dropout_calls(other, dropout_calls(model))
    assert other[0].calls == 1


def test_empty_state_has_the_local_shape_or_is_a_scalar():
    sharding = split((4, 2), 0, rank=0, size=2)
    parameter = torch.ones(2, 2)
    moment = empty_state(parameter, sharding, torch.empty(4, 2, device="meta"), on=torch.device("cpu"))
    assert (moment.local.tolist(), moment.sharding) == ([[0, 0], [0, 0]], sharding)
    count = empty_state(parameter, sharding, torch.empty((), device="meta"), on=torch.device("cpu"))
    assert (count.local.shape, count.sharding.dim) == ((), None)
