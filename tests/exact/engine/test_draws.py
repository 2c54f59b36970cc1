"""Random draws inside exact arithmetic: refused, or taken from PyTorch's generators where the run allows."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from shardproof.exact import ExactArithmetic, ExactArithmeticError, RandomDrawError

DRAWS = {
    "rand": lambda x: torch.rand(3),
    "randn_like": torch.randn_like,
    "dropout": lambda x: F.dropout(x, 0.5),
    "uniform_": lambda x: torch.zeros(3).uniform_(),
    "normal_": lambda x: x.detach().clone().normal_(),
    "bernoulli": lambda x: torch.bernoulli(torch.full((3,), 0.5)),
    "randint as floats": lambda x: torch.randint(0, 3, (3,), dtype=torch.float32),
    "a layer made inside": lambda x: nn.Linear(3, 3)(x),
}


@pytest.mark.parametrize("draw", DRAWS)
def test_draws_are_refused_or_drawn_as_outside(draw):
    x = nn.Parameter(torch.randn(3, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(RandomDrawError, match=r"test_draws\.py.*random='draw'"), ExactArithmetic(seed=1):
        DRAWS[draw](x)
    found = []
    for seed in (0, 0, 1):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            with ExactArithmetic(seed=1, random="draw", check=True) as exact:
                found.append(exact.digits(DRAWS[draw](x) * x))
    assert torch.equal(found[0], found[1])
    assert found[0].shape == found[2].shape


def test_a_draw_by_residues_is_refused():
    x = nn.Parameter(torch.randn(3))
    with pytest.raises(ExactArithmeticError, match="bernoulli"), ExactArithmetic(seed=1, random="draw"):
        torch.bernoulli(x * 2)


def test_integers_may_be_drawn():
    """The order of data is nobody's residue."""
    data = torch.utils.data.TensorDataset(torch.randn(8, 4), torch.arange(8))
    with ExactArithmetic(seed=1) as exact:
        loader = torch.utils.data.DataLoader(data, batch_size=4, shuffle=True)
        shapes = [tuple(exact.digits(x * 2).shape) for x, _ in loader]
        assert sorted(torch.randperm(5).tolist()) == [0, 1, 2, 3, 4]
    assert shapes == [(4, 4), (4, 4)]
