"""One trial, in which elements divide by zero by chance: a small part is left out and said; else a second is taken."""

import torch
import torch.nn.functional as F
from torch import nn

from shardproof.exact.engine import mode
from shardproof.proving.findings import Verdict
from shardproof.proving.prove import prove
from shardproof.proving.records import Phase
from shardproof.proving.step import Step
from shardproof.report.text import render_text

SEEDS = (0, 3)  # at which elements of updates are void


class Quotient(nn.Module):
    def __init__(self, divides):
        super().__init__()
        self.inner, self.outer, self.divides, self.factor = nn.Linear(5, 64), nn.Linear(64, 3), divides, 1.0

    def forward(self, x):
        h = self.inner(x)
        h = h / (4.0 + h * h) if self.divides else h
        return self.factor * self.outer(h)


def make_step(model, optimizer):
    generator = torch.Generator().manual_seed(8)
    return Step(
        model=model,
        batch=(torch.randn(2, 5, generator=generator), torch.randn(2, 3, generator=generator)),
        loss=F.mse_loss,
        optimizer=lambda parameters: optimizer(parameters, lr=1e-2),
        steps=1,
    )


def proof_of(seed, *, divides=False, spoil=None, trials=1):
    def same(model, _mesh):
        if spoil is not None:
            spoil(model)
        return model

    step = make_step(lambda: Quotient(divides), torch.optim.AdamW)
    return prove(step, parallelize=same, devices=2, seed=seed, trials=trials, allow=["VACUOUS sharding *"])


def make_primes_small(monkeypatch, prime):
    """So that one residue in so few is zero by chance."""
    monkeypatch.setattr(mode, "choose_prime", lambda _seed: prime)


def test_elements_that_adam_divides_by_zero_refuse_no_update(monkeypatch):
    make_primes_small(monkeypatch, 1009)
    proofs = [proof_of(seed) for seed in SEEDS]
    assert all(proof.ok for proof in proofs)
    some = [one for proof in proofs for one in proof.findings if one.uncompared]
    assert [sum(one.uncompared for one in proof.findings) for proof in proofs] == [4, 2]
    assert all(one.key.phase is Phase.UPDATE and one.false_accept is None for one in some)
    assert all(one.uncompared * 32 <= one.elements for one in some)
    tensors = sum(one.uncompared > 0 for one in proofs[0].findings)
    assert f"4 elements of {tensors} of these tensors divide by zero by chance in the only trial, and" in render_text(
        proofs[0]
    )


def test_what_is_wrong_beside_them_is_found(monkeypatch):
    make_primes_small(monkeypatch, 1009)

    def spoil(model):
        model.inner.weight.register_hook(lambda gradient: gradient + 1e-3)

    for seed in SEEDS:
        found = {(one.key.phase, one.key.name): one.verdict for one in proof_of(seed, spoil=spoil).findings}
        assert found[Phase.GRADIENT, "inner.weight"] is Verdict.WRONG
        assert found[Phase.UPDATE, "inner.weight"] is Verdict.WRONG


def test_where_all_is_void_another_trial_is_taken(monkeypatch):
    make_primes_small(monkeypatch, 1009)
    proofs = [proof_of(seed, divides=True) for seed in (1, 2)]
    assert [proof.trials for proof in proofs] == [1, 2]
    assert all(proof.ok for proof in proofs)
    assert not any(one.uncompared for one in proofs[1].findings)


def test_where_the_step_itself_divides_by_zero_it_is_told_after_two():
    class Divides(Quotient):
        def forward(self, x):
            h = self.inner(x)
            return self.outer(h / (h - h))

    step = make_step(lambda: Divides(True), torch.optim.SGD)
    proof = prove(step, parallelize=lambda model, _mesh: model, devices=2, trials=1)
    assert {one.verdict for one in proof.findings if one.key.phase is Phase.LOSS} == {Verdict.UNSUPPORTED}
    assert proof.trials == 2
