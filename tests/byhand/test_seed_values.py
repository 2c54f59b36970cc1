"""The notebook's own numbers: its data, its model, and the 32x2 table of section 2."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn, optim

from shardproof.byhand import reference
from shardproof.byhand.data import draw_samples, split_batches
from shardproof.byhand.model import initialise_layers
from shardproof.byhand.settings import Settings
from shardproof.byhand.walkthrough import draw_batches, take_steps
from shardproof.worlds.simulated import SimulatedWorld

OUT = torch.tensor(
    [
        [0.1546, -0.5383], [0.1222, -0.3119], [0.6736, -0.2439], [0.8124, -0.3054],
        [0.4496, -0.4473], [0.4101, -0.5774], [0.4743, -0.6111], [0.5034, -0.3675],
        [0.3844, -0.3518], [0.5095, -0.5411], [0.6302, -0.4292], [0.0960, -0.5650],
        [0.5374, -0.3396], [0.4914, -0.3475], [0.9440, -0.1130], [0.7744, -0.2111],
        [0.4808, -0.3415], [0.3199, -0.5394], [0.5131, -0.4608], [-0.0191, -0.6592],
        [0.3838, -0.4386], [0.5702, -0.2098], [0.2020, -0.4805], [0.1737, -0.2273],
        [0.6647, -0.2574], [0.6794, -0.2492], [0.6364, -0.3637], [1.0508, -0.2086],
        [0.5117, -0.4432], [0.4517, -0.2172], [0.5502, -0.5689], [0.6571, -0.0120],
    ]
)  # fmt: skip


def test_output_table_of_section_2():
    (report,) = take_steps(Settings(), SimulatedWorld(size=2))
    # The notebook shows four decimals: half a unit of the last, and a little for another machine's rounding.
    torch.testing.assert_close(report.out, OUT, rtol=0, atol=0.5e-4 + 1e-6)


@pytest.mark.parametrize(("in_features", "out_features"), [(6, 2), (17, 5), (33, 16)])
def test_data_are_the_notebooks(in_features, out_features):
    with torch.random.fork_rng():
        torch.manual_seed(12345)
        pairs = [(torch.randn(in_features), torch.randn(out_features)) for _ in range(32)]
    data = draw_samples(samples=32, in_features=in_features, out_features=out_features, seed=12345)
    assert torch.equal(data.x, torch.stack([x for x, _ in pairs]))
    assert torch.equal(data.y, torch.stack([y for _, y in pairs]))


def test_batches_are_a_data_loaders():
    data = draw_samples(samples=10, in_features=3, out_features=2, seed=1)
    loader = torch.utils.data.DataLoader(list(zip(data.x, data.y, strict=True)), batch_size=4, shuffle=False)
    batches = split_batches(data, 4)
    assert [len(batch.x) for batch in batches] == [4, 4, 2]
    for batch, (x, y) in zip(batches, loader, strict=True):
        assert torch.equal(batch.x, x)
        assert torch.equal(batch.y, y)


@pytest.mark.parametrize("widths", [(6, 4, 2), (1, 1), (31, 7, 64, 3)])
def test_model_is_the_notebooks(widths):
    with torch.random.fork_rng():
        torch.manual_seed(12345)
        linears = [nn.Linear(i, o) for i, o in pairwise(widths)]
    for ours, theirs in zip(initialise_layers(widths, seed=12345), linears, strict=True):
        assert torch.equal(ours.W, theirs.weight)
        assert torch.equal(ours.b, theirs.bias)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_reference_step_is_the_optimizer_objects(dtype):
    """The reference calls what is behind `optimizer.step()`; here is the object itself in the notebook's loop."""
    settings = Settings(widths=(6, 5, 4), dtype=dtype, activation="gelu", lr=0.1)
    (batch,) = draw_batches(settings)
    models = [reference.build_model(settings.widths, activation="gelu", seed=1, dtype=dtype) for _ in range(2)]
    optimizer = optim.SGD(models[1].parameters(), lr=0.1)
    for _ in range(3):
        step = reference.take_step(models[0], batch, loss="mse", lr=0.1)
        out = models[1](batch.x)
        loss = nn.MSELoss()(out, batch.y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        gradients = [parameter.grad.clone() for parameter in models[1].parameters()]
        optimizer.step()
        assert torch.equal(step.out, out)
        assert torch.equal(step.loss, loss)
        ours = [tensor for layer in step.gradients for tensor in (layer.W, layer.b)]
        assert all(torch.equal(a, b) for a, b in zip(ours, gradients, strict=True))
        updated = [tensor for layer in step.updated for tensor in (layer.W, layer.b)]
        assert all(torch.equal(a, b) for a, b in zip(updated, models[1].parameters(), strict=True))


def test_drawing_leaves_the_global_generator_alone():
    before = torch.random.get_rng_state()
    list(take_steps(Settings(), SimulatedWorld(size=2)))
    assert torch.equal(torch.random.get_rng_state(), before)
