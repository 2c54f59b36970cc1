"""A guarded division by zero hides nothing and alarms nobody; one that only one side guards is WRONG, and says so.

So does an update of many elements, some of which divide by zero by chance.
"""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from tests.proving import steps
from torch import nn

from shardproof.proving.cause import CauseKind
from shardproof.proving.findings import Verdict
from shardproof.proving.prove import prove
from shardproof.proving.records import Phase
from shardproof.proving.step import Step

STARTS = (0, 1, 1, 4)  # of three groups of rows, the second empty
SIZES = torch.tensor([1.0, 0.0, 3.0])

MEANS = {
    "where": lambda total, count: torch.where(count > 0, total / count, torch.zeros_like(total)),
    "clamp": lambda total, count: total / count.clamp(min=1),
    "masked_fill": lambda total, count: (total / count).masked_fill(count == 0, 0.0),
    "times a mask": lambda total, count: (total / count) * (count != 0).to(total.dtype),
    "another divisor": lambda total, count: total / torch.where(count == 0, torch.ones_like(count), count),
    "none": lambda total, count: total / count,
}


class Pooled(nn.Module):
    """The mean of each group of rows, summed over the groups and added to each row; by one way of two."""

    def __init__(self, first, second, factor=1.0):
        super().__init__()
        self.inner, self.outer = nn.Linear(3, 8), nn.Linear(8, 2)
        self.ways, self.factor, self.second = (first, second), factor, False

    def forward(self, x):
        h = F.silu(self.inner(x))
        total = torch.stack([h[start:end].sum(0) for start, end in pairwise(STARTS)])
        means = MEANS[self.ways[self.second]](total, SIZES[:, None].to(h.dtype))
        return self.outer(h + (self.factor if self.second else 1.0) * means.sum(0))


def proof_of(first, second, factor=1.0, *, seed=0, trials=2):
    def switch(model, _mesh):
        model.second = True
        return model

    generator = torch.Generator().manual_seed(3)
    step = Step(
        model=lambda: Pooled(first, second, factor),
        batch=(torch.randn(4, 3, generator=generator), torch.randn(4, 2, generator=generator)),
        loss=F.mse_loss,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.2),
        steps=1,
    )
    return prove(step, parallelize=switch, devices=2, seed=seed, trials=trials, allow=["VACUOUS sharding *"])


@pytest.mark.parametrize("second", ["where", "clamp", "masked_fill", "another divisor"])
def test_guards_of_one_mean_are_one_function(second):
    proof = proof_of("where", second)
    assert proof.ok
    assert {finding.verdict for finding in proof.findings if not finding.allowed} == {Verdict.PROVED}
    assert all(finding.false_accept < 1e-3 for finding in proof.findings if finding.false_accept is not None)


def test_a_product_with_zero_guards_modulo_a_prime_and_not_in_numbers():
    """0 times a quotient is 0 where the divisor is zero by chance; in floating point 0 * NaN is NaN."""
    proof = proof_of("where", "times a mask")
    found = {finding.key.name: finding for finding in proof.findings}
    assert not proof.ok
    assert found["loss"].verdict is Verdict.WRONG
    assert found["loss"].cause.kind is CauseKind.ONLY_IN_NATIVE_DTYPE


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("factor", [5.0, 1.004])
def test_a_factor_behind_a_guard_is_found_at_every_seed(seed, factor):
    proof = proof_of("where", "where", factor, seed=seed)
    assert not proof.ok
    wrong = [finding for finding in proof.findings if finding.verdict is Verdict.WRONG]
    assert ("gradient", "outer.weight") in {(str(finding.key.phase), finding.key.name) for finding in wrong}
    assert not any(finding.verdict is Verdict.UNSUPPORTED for finding in proof.findings)


@pytest.mark.parametrize(
    ("first", "second", "kind"),
    [("where", "none", CauseKind.NO_NUMBER_HERE), ("none", "where", CauseKind.NO_NUMBER_IN_REFERENCE)],
)
def test_a_guard_on_one_side_alone_is_wrong_and_named(first, second, kind):
    proof = proof_of(first, second)
    found = {finding.key.name: finding for finding in proof.findings}
    assert found["loss"].verdict is Verdict.WRONG
    assert found["loss"].cause.kind is kind
    assert found["loss"].cause.ranks == (0, 1)


def test_a_division_by_zero_on_both_sides_is_no_proof():
    proof = proof_of("none", "none")
    found = {finding.key.name: finding for finding in proof.findings}
    assert not proof.ok
    assert found["loss"].verdict is Verdict.UNSUPPORTED
    assert found["loss"].cause.kind is CauseKind.DIVIDES_BY_ZERO


# Steps after an update that divides by zero by chance -----------------------------------------------------------------


@pytest.fixture
def small_prime(monkeypatch):
    """Of about 400 elements a step some are void: as of a million modulo the primes of a proof."""
    monkeypatch.setattr("shardproof.exact.engine.mode.choose_prime", lambda _seed: 1559)


def make_adam(parameters):
    return torch.optim.AdamW(parameters, lr=1e-3)


def adam_step():
    return steps.make_step_of_four_rows(optimizer=make_adam, steps=3, model=Wide)


class Wide(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(6, 64), nn.Linear(64, 4)

    def forward(self, x):
        return self.down(F.silu(self.up(x)))


def late_factor(model, mesh):
    """A bug of the third step alone."""
    model, taken = steps.parallelize(model, mesh), []

    def scale(gradient):
        taken.append(1)
        return gradient * (2 if len(taken) == 3 else 1)

    model.down.weight.register_hook(scale)
    return model


def adam_training(*, copies=False, factor=1.0):
    """Data parallel over two ranks; the parameters are computed from copies that the optimizer holds."""

    def train(run):
        model = run.model()
        held = [nn.Parameter(p.detach().clone()) for p in model.parameters()] if copies else list(model.parameters())
        optimizer = make_adam(held)
        for number, (x, y) in enumerate(run.batches()):
            model.zero_grad()
            own = slice(2 * run.rank, 2 * run.rank + 2)
            loss = F.mse_loss(model(x[own]), y[own])
            run.record_loss(steps.average(loss))
            loss.backward()
            for parameter in model.parameters():
                parameter.grad = steps.average(parameter.grad) * (factor if number == 2 else 1.0)
            run.record_gradients()
            for parameter, copy in zip(model.parameters(), held, strict=True):
                copy.grad = parameter.grad
            optimizer.step()
            with torch.no_grad():
                for parameter, copy in zip(model.parameters(), held, strict=True):
                    parameter.copy_(copy)
            run.record_update(None if copies else optimizer)

    return train


def void_updates(proof):
    return [one for one in proof.findings if one.key.phase is Phase.UPDATE and one.key.step == 0 and one.uncompared]


@pytest.mark.parametrize("candidate", [False, True])
def test_an_update_that_is_void_in_places_does_not_make_the_next_step_void(small_prime, candidate):
    ways = {"candidate": adam_training()} if candidate else {"parallelize": steps.parallelize}
    proof = prove(adam_step(), devices=2, trials=1, allow=["VACUOUS sharding *"], **ways)
    assert proof.ok
    assert void_updates(proof)
    assert {one.verdict for one in proof.findings if not one.allowed} == {Verdict.PROVED}
    assert {one.key.step for one in proof.findings} >= {0, 1, 2}


@pytest.mark.parametrize("candidate", [False, True])
def test_a_bug_of_a_step_after_void_updates_is_found(small_prime, candidate):
    ways = {"candidate": adam_training(factor=2.0)} if candidate else {"parallelize": late_factor}
    proof = prove(adam_step(), devices=2, trials=1, allow=["VACUOUS sharding *"], **ways)
    wrong = [one.key for one in proof.findings if one.verdict is Verdict.WRONG and one.key.phase is Phase.GRADIENT]
    assert wrong
    assert {key.step for key in wrong} == {2}


def test_copies_that_stay_void_on_one_side_alone_are_no_false_alarm(small_prime):
    ways = {"candidate": adam_training(copies=True)}
    proof = prove(adam_step(), devices=2, trials=3, allow=["VACUOUS sharding *"], **ways)
    assert not [one for one in proof.findings if one.verdict is Verdict.WRONG]
    assert {one.verdict for one in proof.findings if one.key.step < 2 and not one.allowed} == {Verdict.PROVED}
