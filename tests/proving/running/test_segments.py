"""Steps in segments: transformers have derived bounds, more trials push them down, and a cut hides no bug."""

import dataclasses

import pytest
import torch
from tests.proving import steps
from torch import nn

from shardproof import ExactArithmetic
from shardproof.frameworks.transformers import OwnPlan, PlanChange, tiny_step
from shardproof.proving.findings import Verdict
from shardproof.proving.prove import prove
from shardproof.proving.records import Key, Phase
from shardproof.proving.running.segments import Segments, number_parameters

OWN = OwnPlan(change=PlanChange())


def unbounded(proof):
    return {str(f.key.phase) for f in proof.findings if f.verdict is Verdict.PROVED and f.false_accept is None}


@pytest.mark.slow
def test_a_transformer_has_a_derived_bound_for_everything():
    step = dataclasses.replace(tiny_step("llama", {"num_hidden_layers": 1}), steps=2)
    proof = prove(step, parallelize=OWN, devices=2, trials=2)
    assert proof.ok
    assert unbounded(proof) == set()
    assert max(f.false_accept for f in proof.findings if f.false_accept is not None) < 1e-3


def test_more_trials_are_taken_until_the_bound_is_small_enough():
    proof = prove(steps.make_step(steps=2), parallelize=steps.parallelize, devices=2, trials=2, max_false_accept=1e-20)
    assert proof.ok
    assert proof.trials == len(proof.seeds) == len(set(proof.seeds)) == len(proof.primes) > 2
    assert all(f.false_accept <= 1e-20 for f in proof.findings if f.false_accept is not None)
    assert unbounded(proof) == set()


def test_a_bug_takes_no_more_trials():
    proof = prove(
        steps.make_step(), parallelize=steps.megatron("no all-reduce"), devices=2, trials=2, max_false_accept=1e-20
    )
    assert not proof.ok
    assert proof.trials == 2


class Late(nn.Module):
    """Right for the first trial, wrong from then on: only a run in segments can see it."""

    def __init__(self, model, runs):
        super().__init__()
        self.up, self.down, self.runs = model.up, model.down, runs

    def forward(self, x):
        hidden = torch.nn.functional.gelu(self.up(x))
        return self.down(hidden * (2 if self.runs[0] > 4 else 1))


@pytest.mark.parametrize("broken", [False, True])
def test_a_bug_in_a_run_in_segments_is_found(broken):
    runs = [0]

    def parallelize(model, mesh):
        runs[0] += broken and mesh.get_local_rank() == 0
        return Late(model, runs)

    proof = prove(steps.make_step(), parallelize=parallelize, devices=2, trials=4, allow=["VACUOUS sharding *"])
    assert proof.ok != broken
    if broken:
        root = next(one for one in proof.roots if one.failed)
        assert (root.key.phase, root.key.name) == (Phase.INPUT, "down")


class TwoHalves(nn.Module):
    """The square of a root, over a module's boundary: with a cut between them it is no longer what the root was of."""

    class Root(nn.Module):
        def forward(self, x):
            return x.square().sum(-1, keepdim=True).sqrt()

    def __init__(self):
        super().__init__()
        self.linear, self.root, self.plain = nn.Linear(6, 4), self.Root(), False

    def forward(self, x):
        h = self.linear(x)
        size = self.root(h)
        return h * (h.square().sum(-1, keepdim=True) if self.plain else size.square())


def test_where_a_cut_parts_what_is_the_same_function_the_trials_go_without():
    def otherwise(model, _mesh):
        model.plain = True
        return model

    step = steps.make_step(model=TwoHalves)
    proof = prove(step, parallelize=otherwise, devices=2, trials=3, allow=["VACUOUS sharding *"])
    assert proof.ok
    assert {f.key.phase for f in proof.findings} >= {Phase.LOSS, Phase.GRADIENT}


class Masked(nn.Module):
    """A module makes a mask of zeros and ones, which is no number to be replaced."""

    class Mask(nn.Module):
        def forward(self, x):
            return torch.ones(x.shape[-1], x.shape[-1], dtype=x.dtype).tril()

    def __init__(self):
        super().__init__()
        self.linear, self.mask = nn.Linear(6, 4), self.Mask()

    def forward(self, x):
        h = self.linear(x)
        scores = h.mT @ h + (1 - self.mask(h)) * torch.finfo(h.dtype).min
        return h @ torch.softmax(scores, -1)


def test_a_step_that_cannot_be_cut_is_proved_without():
    proof = prove(
        steps.make_step(model=Masked),
        parallelize=lambda model, _mesh: model,
        devices=2,
        trials=2,
        allow=["VACUOUS sharding *"],
    )
    assert proof.ok
    assert "loss" in unbounded(proof)


# One cut --------------------------------------------------------------------------------------------------------------


FULL = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
KEY = Key(0, Phase.OUTPUT, "up")


def test_parameters_are_numbered_by_their_values():
    full = number_parameters({"w": FULL})["w"]
    assert len(full.unique()) == FULL.numel()
    assert bool((full >= 0).all())
    shard = number_parameters({"w": FULL[1::2, 2:].mT})["w"]
    assert torch.equal(shard, full[1::2, 2:].mT)
    assert not torch.equal(number_parameters({"w": -FULL})["w"], full)


def test_zeros_are_padding():
    padded = torch.cat([FULL[4:], torch.zeros(2, 4, dtype=torch.float64)])
    assert number_parameters({"w": padded})["w"][2:].tolist() == [[-1] * 4] * 2


def test_a_shard_of_a_parameter_is_renewed_as_the_full_one_is():
    with ExactArithmetic(seed=1) as exact:
        renewed = []
        for part in (FULL, FULL[3:]):
            weight = torch.nn.Parameter(part.clone())
            segments = Segments(exact=exact, parameters=values_of(exact, weight))
            segments.renew("w", weight.detach(), "after step 1")
            renewed.append(exact.digits(weight.detach()))
            segments.renew("w", weight.detach(), "after step 2")
            assert not torch.equal(exact.digits(weight.detach()), renewed[-1])
    assert torch.equal(renewed[0][3:], renewed[1])


def values_of(exact, weight):
    with exact.paused():
        return {"w": weight.detach().clone()}


def test_only_chosen_activations_are_cut_by_the_ranks_own_numbers():
    numbers = {0: torch.arange(3), 1: torch.arange(3, 6)}
    cuts = {(Phase.OUTPUT, "up", 0): numbers}
    with ExactArithmetic(seed=1) as exact:
        x = torch.arange(1.0, 7.0, requires_grad=True) * 1
        full = exact.digits(Segments(exact=exact, cuts={(Phase.OUTPUT, "up", 0): {}}).cut(KEY, x))
        parts = [Segments(exact=exact, cuts=cuts, rank=rank).cut(KEY, x[3 * rank : 3 * rank + 3]) for rank in range(2)]
        assert torch.equal(torch.cat([exact.digits(part) for part in parts]), full)
        other = Segments(exact=exact, cuts=cuts, rank=0)
        assert other.cut(Key(0, Phase.OUTPUT, "down"), x) is x
        swapped = other.cut(KEY, x[3:])
        assert not torch.equal(exact.digits(swapped), full[3:])


@pytest.mark.parametrize("cuts", [{}, {(Phase.OUTPUT, "up", 0): {}}])
def test_gradients_are_renewed_where_activations_are_cut_too(cuts):
    with ExactArithmetic(seed=1, random="oracle") as exact:
        weight = nn.Parameter(FULL.clone())
        segments = Segments(exact=exact, cuts=cuts, parameters=values_of(exact, weight))
        (weight * 3).sum().backward()
        before = exact.digits(weight.grad)
        segments.renew_gradient("w", weight, "gradient")
        after = exact.digits(weight.grad)
    assert torch.equal(before, after) is not bool(cuts)
