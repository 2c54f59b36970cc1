"""Masks and counts of a batch, a buffer or a closure are compared by what they are: a bug behind one is found."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from shardproof.proving.findings import Verdict
from shardproof.proving.prove import prove
from shardproof.proving.step import Step

LENGTHS = torch.tensor([3.0, 0.0, 1.0, 2.0])  # a closure's


class Masked(nn.Module):
    """Rows kept where a weight is large enough, by one of several ways to say so."""

    def __init__(self, ways, factor):
        super().__init__()
        self.inner, self.outer = nn.Linear(3, 8), nn.Linear(8, 2)
        self.register_buffer("limit", torch.tensor([0.5, 0.5, 0.5, 0.5]))
        self.ways, self.factor, self.second = ways, factor, False

    def forward(self, batch):
        x, weights, counts = batch
        h = torch.tanh(self.inner(x))
        h = h * (self.factor if self.second else 1.0)
        keep = WAYS[self.ways[self.second]](weights, counts, self.limit.to(weights.dtype))
        return self.outer(torch.where(keep[:, None], h, torch.zeros_like(h)))


WAYS = {
    "more than a half": lambda weights, _counts, _limit: weights > 0.5,
    "its truth": lambda weights, _counts, _limit: weights.bool(),
    "not zero": lambda weights, _counts, _limit: weights != 0,
    "a buffer": lambda weights, _counts, limit: weights >= limit,
    "turned round": lambda weights, _counts, _limit: ~((1 - weights) * 2 > 1),
    "a running sum": lambda weights, _counts, _limit: weights.cumsum(0).diff(prepend=weights.new_zeros(1)) > 0.25,
    "a closure": lambda weights, _counts, _limit: LENGTHS.to(weights.dtype) >= 1.0,
    "a count": lambda _weights, counts, _limit: counts > 0,
    "a count over its sum": lambda _weights, counts, _limit: counts / counts.sum() > 0.1,
    "integers": lambda _weights, counts, _limit: counts.long().float() * 0.5 > 0.25,
}
BATCH = (
    (torch.randn(4, 3, generator=torch.Generator().manual_seed(5)), torch.tensor([1.0, 0, 1, 1]), LENGTHS.clone()),
    torch.randn(4, 2, generator=torch.Generator().manual_seed(6)),
)


def proof_of(first, second, factor=1.0, *, seed=0):
    def switch(model, _mesh):
        model.second = True
        return model

    step = Step(
        model=lambda: Masked((first, second), factor),
        batch=BATCH,
        loss=F.mse_loss,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.2),
        steps=1,
    )
    return prove(step, parallelize=switch, devices=2, seed=seed, trials=1, allow=["VACUOUS sharding *"])


@pytest.mark.parametrize("second", [name for name in WAYS if name != "more than a half"])
def test_every_way_to_say_which_rows_are_kept_is_one(second):
    assert proof_of("more than a half", second).ok


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("way", ["more than a half", "a count"])
def test_a_factor_behind_a_mask_is_found_at_every_seed(way, seed):
    proof = proof_of(way, way, 5.0, seed=seed)
    assert not proof.ok
    assert any(finding.verdict is Verdict.WRONG for finding in proof.findings)
