"""Both sides of a proof: the same runs on one device and on all ranks, from one full state; a failure says where."""

import pytest
import torch
from tests.proving import steps

from shardproof.errors import CannotRunError
from shardproof.proving.records import MEASURED, SAMPLES, UNROUNDED, Precision
from shardproof.proving.running.both_sides import Numbers, Runner
from shardproof.proving.running.models import build_model, initial_values
from shardproof.proving.running.request import RunRequest
from shardproof.proving.running.target import ProofTarget

REQUEST = RunRequest(mesh={"tp": 2}, seeds=(0, 1))


def run(request=REQUEST, *, step=None, numbers=None, **candidate):
    target = ProofTarget(step=step or steps.make_step(), **(candidate or {"parallelize": steps.parallelize}))
    return Runner(target=target, spawn=False, timeout=60.0, reload=None).run(request, numbers)


def test_the_ranks_hold_the_state_of_the_reference_in_parts():
    both = run()
    weights = [side.parameters["up.weight"] for side in both.ranks]
    assert torch.equal(torch.cat(weights), both.reference.parameters["up.weight"])
    assert {len(side.trials) for side in (both.reference, *both.ranks)} == {2}
    assert len(set(both.primes)) == 2
    assert (both.axes.sizes, both.fresh, both.own_training, both.dtype) == ({"tp": 2}, True, False, "float32")


def test_ordinary_runs_are_taken_where_they_are_asked_for():
    assert run().reference.native == {}
    own, in_float64, both = (run(numbers=numbers) for numbers in Numbers)
    assert set(own.reference.native) == {Precision.ROUNDED, *SAMPLES}
    assert set(in_float64.reference.native) == {Precision.FLOAT64, Precision.FLOAT32}
    assert set(both.reference.native) == set(Precision)
    kinds = [{tuple(side.native) for side in one.ranks} for one in (own, in_float64, both)]
    assert kinds == [{(Precision.OWN,)}, {(Precision.FLOAT64,)}, {(Precision.FLOAT64, Precision.OWN)}]
    assert [one.own_precision for one in (own, both)] == [Precision.OWN] * 2
    assert [one.in_float64 for one in (own, in_float64, both, own.joined(in_float64))] == [False, True, True, True]


def test_of_runs_that_round_their_deviations_are_kept_and_of_those_that_are_only_measured_nothing_else():
    native = run(numbers=Numbers.BOTH).reference.native
    for precision, unrounded in UNROUNDED.items():
        exact = native[unrounded].tensors
        assert list(native[precision].deviations) == list(exact)
        assert bool(native[precision].tensors) is (precision not in MEASURED)
        noises = [native[precision].deviations[key].difference for key in exact]
        assert 0 < max(noises) < 1e-3
    own, exact = native[Precision.OWN], native[Precision.ROUNDED].tensors
    for key, deviation in own.deviations.items():
        difference = (own.tensors[key].values.double() - exact[key].values).abs().max()
        assert deviation.difference == float(difference)


def test_of_a_float64_model_float64_is_its_own():
    both = run(step=steps.make_step(model=lambda: steps.MLP().double()), numbers=Numbers.OWN)
    assert both.own_precision is Precision.FLOAT64
    assert set(both.reference.native) == {Precision.FLOAT64, Precision.FLOAT32}


def test_the_reference_records_the_values_that_the_users_model_starts_with():
    both = run(RunRequest(mesh={"tp": 2}, seeds=(0,), draws=True), numbers=Numbers.OWN)
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
