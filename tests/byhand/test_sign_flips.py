"""A relu input that rounding moves across zero is found, and its share of the gradients computed; no other is."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from shardproof.byhand.data import Batch
from shardproof.byhand.functions import ACTIVATIONS, LOSSES
from shardproof.byhand.model import initialise_layers
from shardproof.byhand.one_device import take_step
from shardproof.byhand.settings import Settings
from shardproof.byhand.sign_flips import find_sign_flips
from shardproof.byhand.tolerance import estimate_scales
from shardproof.byhand.walkthrough import take_steps
from shardproof.worlds.simulated import SimulatedWorld

SETTINGS = Settings(widths=(3, 4, 2), activation="relu", samples=5, batch_size=5)


def take_two_steps(near, far):
    """Two steps that differ in one z alone: `near` in one of them, `far` in the other."""
    generator = torch.Generator().manual_seed(0)
    batch = Batch(x=torch.randn(5, 3, generator=generator), y=torch.randn(5, 2, generator=generator))
    layers = initialise_layers(SETTINGS.widths, seed=0)
    step = take_step(layers, batch, activation=ACTIVATIONS["relu"], loss=LOSSES["mse"], lr=0.1)
    z = [step.z[0].clone() for _ in range(2)]
    z[0][1, 2], z[1][1, 2] = near, far
    scales = estimate_scales(layers, batch, loss="mse", lr=0.1)
    return layers, batch, {
        "step": replace(step, z=(z[0],)),
        "reference": replace(step, z=(z[1],)),
        "scales": scales,
    }  # fmt: skip


def test_a_flip_within_noise_of_zero_is_allowed_for():
    layers, batch, steps = take_two_steps(1e-8, -1e-8)
    sign_flips = find_sign_flips(SETTINGS, layers, batch, **steps)
    assert sign_flips.count == 1
    out = steps["reference"].out
    dh = (LOSSES["mse"].backward(out, batch.y) @ layers[1].W)[1, 2]
    first = sign_flips.gradients[0]
    torch.testing.assert_close(first.b, dh.abs().item(), rtol=1e-4, atol=0)
    torch.testing.assert_close(first.W, (dh * batch.x[1]).abs().max().item(), rtol=1e-4, atol=0)
    assert sign_flips.gradients[1].b == 0
    assert sign_flips.dh == (0,)  # it is computed from dout alone


@pytest.mark.parametrize(("near", "far"), [(1e-8, 2e-8), (-1e-8, -2e-8), (0.5, -0.5), (-1e-8, 0.5)])
def test_nothing_else_is(near, far):
    layers, batch, steps = take_two_steps(near, far)
    sign_flips = find_sign_flips(SETTINGS, layers, batch, **steps)
    assert sign_flips.count == 0
    assert all((scale.W, scale.b) == (0, 0) for scale in sign_flips.gradients)


def test_without_relu_there_is_no_sign_flip():
    layers, batch, steps = take_two_steps(1e-8, -1e-8)
    assert find_sign_flips(replace(SETTINGS, activation="gelu"), layers, batch, **steps).count == 0


def test_sign_flips_in_bfloat16_are_approximate():
    settings = Settings(
        widths=(2, 64, 32, 8), activation="relu", dtype=torch.bfloat16, splits=("row", "row", "row"), samples=256,
        batch_size=256,
    )  # fmt: skip
    (report,) = take_steps(settings, SimulatedWorld(size=2))
    assert sum(section.sign_flips for section in report.sections) > 0
    assert all(line.approximate for line in report.comparisons)
