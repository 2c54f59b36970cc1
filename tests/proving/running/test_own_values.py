"""Shardings that fill parameters themselves: found by value, loaded over; refused where values depend on the given."""

import pytest
import torch
from torch import nn

from shardproof.errors import CannotRunError
from shardproof.proving.records import Precision
from shardproof.proving.running.own_values import OwnValues

# Runs: whether the arithmetic is exact, and the precision.
EXACT, BESIDE, OWN = (True, Precision.FLOAT64), (False, Precision.FLOAT64), (False, Precision.OWN)


def draw(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def state(seed):
    return {"weight": draw(4, 3, seed=seed), "bias": draw(4, seed=seed + 1)}


def layer(values, dtype=torch.float64):
    model = nn.Linear(3, 4).to(dtype)
    model.load_state_dict(values)
    return model


def filled(values, *, weight=None, bias=None, dtype=torch.float64):
    """A layer that takes its values, but for those that it is filled with."""
    model = layer(values, dtype)
    with torch.no_grad():
        for parameter, own in ((model.weight, weight), (model.bias, bias)):
            if own is not None:
                parameter.copy_(own)
    return model


def load_over(*models_and_runs):
    own = OwnValues()
    for seed, (model, (exact, precision)) in enumerate(models_and_runs):
        own.load_over(model, state(seed * 10), {}, precision, exact=exact)
    return own


def test_what_takes_its_values_or_zeroes_them_is_left_as_it_is():
    model = filled(state(0), bias=torch.zeros(4))
    own = load_over((model, EXACT))
    assert (own.names, own.initial(), own.depending()) == (frozenset(), {}, ())
    assert torch.equal(model.weight, state(0)["weight"])
    assert not model.bias.any()


def test_numbers_that_are_none_of_those_given_are_loaded_over_and_zeros_beside_them():
    numbers = draw(4, 3, seed=99)
    first = filled(state(0), weight=numbers, bias=torch.zeros(4))
    second = filled(state(10), weight=numbers, bias=torch.zeros(4))
    own = load_over((first, EXACT), (second, BESIDE))
    assert own.names == {"weight", "bias"}
    for model, seed in ((first, 0), (second, 10)):
        assert all(torch.equal(one, state(seed)[name]) for name, one in model.named_parameters())
    assert torch.equal(own.initial()["weight"], numbers)
    assert own.depending() == ()


@pytest.mark.parametrize(
    "change",
    [lambda w: w / 2, lambda w: w.float(), lambda w: w + torch.eye(4, 3)],
    ids=["scaled", "rounded", "in part"],
)
def test_numbers_that_depend_on_those_given_are_told(change):
    models = [(filled(state(s), weight=change(state(s)["weight"])), run) for s, run in ((0, EXACT), (10, BESIDE))]
    assert load_over(*models).depending() == ("weight",)


def test_without_a_run_in_exact_arithmetic_the_users_own_values_are_the_others():
    numbers = draw(4, 3, seed=99)
    own = load_over((filled(state(0), weight=numbers), BESIDE), (filled(state(10), weight=numbers), OWN))
    assert own.depending() == ("weight",)
    assert own.depending({"weight": numbers}) == ()
    assert own.depending({"weight": numbers + 1}) == ("weight",)


def test_a_model_that_the_sharding_builds_itself_is_converted():
    model = filled(state(0), weight=draw(4, 3, seed=99), bias=draw(4, seed=98), dtype=torch.float32)
    load_over((model, EXACT))
    assert all(torch.equal(one, state(0)[name]) for name, one in model.named_parameters())


def test_a_plain_shard_is_left_as_it_is():
    shard = nn.Linear(3, 2, dtype=torch.float64)
    before = shard.weight.detach().clone()
    own = load_over((shard, EXACT))
    assert own.names == {"weight", "bias"}
    assert torch.equal(shard.weight, before)


def test_a_parameter_without_memory_is_refused():
    with pytest.raises(CannotRunError, match="weight is on the meta device"):
        load_over((nn.Linear(3, 4, device="meta"), EXACT))
