"""Both sides of a proof: the same runs on one device and on all ranks, from one full state; a failure says where."""

import pytest
import torch
from tests.proving import steps

from shardproof.errors import CannotRunError
from shardproof.proving.records import Precision
from shardproof.proving.running.both_sides import Runner
from shardproof.proving.running.models import build_model, initial_values
from shardproof.proving.running.request import RunRequest
from shardproof.proving.running.target import ProofTarget

REQUEST = RunRequest(mesh={"tp": 2}, seeds=(0, 1))


def run(request=REQUEST, *, step=None, natively=False, **candidate):
    target = ProofTarget(step=step or steps.make_step(), **(candidate or {"parallelize": steps.parallelize}))
    return Runner(target=target, spawn=False, timeout=60.0, reload=None).run(request, natively=natively)


def test_the_ranks_hold_the_state_of_the_reference_in_parts():
    both = run()
    weights = [side.parameters["up.weight"] for side in both.ranks]
    assert torch.equal(torch.cat(weights), both.reference.parameters["up.weight"])
    assert {len(side.trials) for side in (both.reference, *both.ranks)} == {2}
    assert len(set(both.primes)) == 2
    assert (both.axes.sizes, both.fresh, both.own_training, both.dtype) == ({"tp": 2}, True, False, "float32")


def test_ordinary_runs_are_taken_where_they_are_asked_for():
    assert run().reference.native == {}
    both = run(natively=True)
    assert set(both.reference.native) == set(Precision)
    assert {tuple(side.native) for side in both.ranks} == {(Precision.FLOAT64, Precision.OWN)}
    assert both.own_precision is Precision.OWN


def test_of_a_float64_model_float64_is_its_own():
    both = run(step=steps.make_step(model=lambda: steps.MLP().double()), natively=True)
    assert both.own_precision is Precision.FLOAT64
    assert set(both.reference.native) == {Precision.FLOAT64, Precision.FLOAT32}


def test_the_reference_records_the_values_that_the_users_model_starts_with():
    both = run(RunRequest(mesh={"tp": 2}, seeds=(0,), draws=True))
    expected = initial_values(build_model(steps.make_step(), 0))
    assert torch.equal(both.reference.initial["up.weight"], expected["up.weight"])
    assert torch.equal(torch.cat([side.initial["up.weight"] for side in both.ranks]), expected["up.weight"])
    assert not torch.equal(both.reference.parameters["up.weight"], expected["up.weight"])


def test_a_training_of_the_users_own_is_marked_so():
    both = run(step=steps.make_step_of_four_rows(), candidate=steps.make_training())
    assert both.own_training


def test_a_step_that_fails_on_one_device_says_so():
    def loss(outputs, targets):
        raise OverflowError("too much")

    with pytest.raises(CannotRunError, match="the step cannot be run on one device: OverflowError: too much"):
        run(step=steps.make_step(loss=loss))


def test_a_rank_that_fails_is_named():
    with pytest.raises(CannotRunError, match="rank 1: OverflowError: more than it can hold"):
        run(parallelize=steps.raises)
