"""Functions written otherwise above autograd: the gradient of a clamp is relu's, whichever way it is written."""

import pytest
import torch
import torch.nn.functional as F
from tests.exact.engine.probes import drawn, same

CLAMPS = {
    "clamp": lambda x: x.clamp(min=0),
    "clamp_min": lambda x: torch.clamp_min(x, 0),
    "clip": lambda x: torch.clip(x, min=0),
    "input by name": lambda x: torch.clamp(input=x, min=0),
    "from above": lambda x: -((-x).clamp(max=0)),
    "hardtanh without an upper limit": lambda x: x.clamp(0, float("inf")),
}


@pytest.mark.parametrize("form", CLAMPS)
def test_a_clamp_has_relus_values_and_gradient(exact, form):
    x, y = drawn(5), drawn(5)
    found, wanted = CLAMPS[form](x * 3), (y * 3).relu()
    assert same(exact, found, wanted)
    (found * 7).sum().backward()
    (wanted * 7).sum().backward()
    assert same(exact, x.grad, y.grad)
    x.grad = None
    (CLAMPS[form](x * 3 + 1) * 7).sum().backward()
    assert not same(exact, x.grad, y.grad)


def test_an_infinite_limit_limits_nothing(exact):
    x = drawn(5)
    assert same(exact, (x * 3).clamp(min=-torch.finfo(torch.float32).max), x * 3)


def test_attention_multiplies_queries_by_the_scale(exact):
    q, k, v = (drawn(1, 2, 4, 8, seed=i) for i in range(3))
    found = F.scaled_dot_product_attention(q, k, v, scale=0.3)
    assert same(exact, found, F.softmax((q * 0.3) @ k.transpose(-2, -1), -1) @ v)
    assert not same(exact, found, F.scaled_dot_product_attention(q, k, v, scale=0.31))


def sample(image, x):
    """One row of samples at the height of the first row, and at widths of `x` pixels."""
    positions = torch.tensor([[[[2 * one / 3 - 1, -1.0] for one in x]]], dtype=torch.float64)
    return F.grid_sample(image, positions, mode="bilinear", align_corners=True)


def test_samples_at_constant_positions_are_means_of_neighbours_with_their_gradient(exact):
    x, y = drawn(1, 2, 4, 4), drawn(1, 2, 4, 4)
    found = sample(x * 3, [0.0, 1.5])
    row = (y * 3)[:, :, 0]
    wanted = torch.stack((row[..., 0], (row[..., 1] + row[..., 2]) / 2), -1).unsqueeze(2)
    assert same(exact, found, wanted)
    assert not same(exact, found, sample(x * 3, [0.0, 1.25]))
    (found * 7).sum().backward()
    (wanted * 7).sum().backward()
    assert same(exact, x.grad, y.grad)
    x.grad = None
    (sample(x * 3, [0.0, 1.25]) * 7).sum().backward()
    assert not same(exact, x.grad, y.grad)
