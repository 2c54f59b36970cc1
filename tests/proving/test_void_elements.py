"""A guarded division by zero hides nothing and alarms nobody; one that only one side guards is WRONG, and says so."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from shardproof.proving.cause import CauseKind
from shardproof.proving.findings import Verdict
from shardproof.proving.prove import prove
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
