"""Real constants made inside: numbers as they are, until they meet a residue."""

import torch
from tests.exact.engine.probes import drawn
from torch import nn

from shardproof.exact import ExactArithmetic


def test_constants_mean_the_same_however_they_are_written():
    x = nn.Parameter(torch.randn(4))
    outside = torch.tensor(0.1)
    with ExactArithmetic(seed=1) as exact:
        wanted = exact.digits(x / 10)
        forms = (0.1, outside, torch.tensor(0.1), torch.tensor([0.1]), torch.tensor(0.1, dtype=torch.float64))
        forms += (torch.full((), 0.1), torch.ones(1) / 10, torch.tensor(1) / 10, torch.arange(1, 2) / 10)
        assert all(torch.equal(exact.digits(x * form), wanted) for form in forms)
        assert not torch.equal(exact.digits(x * 0.1000001), wanted)


def test_control_flow_on_integers_shapes_and_constants_is_free():
    ids = torch.tensor([[1, 2, 0]])
    x = drawn(3, 4)
    with ExactArithmetic(seed=1):
        assert (ids > 1).any()
        assert ids.max().item() == 2
        assert x.shape[0] == 3
        step = torch.tensor(0.0)
        step += 1
        assert step.item() == 1.0
        scale = torch.ones(2).sum() / 8
        assert scale.item() == 0.25
        assert not torch.isnan(x * 3).any()
        assert torch.isfinite(x * 3).all()
        mask = torch.zeros(2, 2).masked_fill(torch.ones(2, 2).bool(), float("-inf"))
        assert bool((mask < 0).all())
        assert list(torch.arange(3)) == [0, 1, 2]
