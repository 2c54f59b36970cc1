"""Scales follow the sizes of the tensors; tolerances leave room for rounding and none for a wrong step."""

from __future__ import annotations

import pytest
import torch

from shardproof.byhand.data import Batch
from shardproof.byhand.functions import ACTIVATIONS, LOSSES
from shardproof.byhand.model import Layer, initialise_layers
from shardproof.byhand.one_device import take_step
from shardproof.byhand.tolerance import count_epsilons, estimate_scales


def rms(tensor):
    return float(tensor.square().mean().sqrt())


@pytest.mark.parametrize("loss", ["mse", "cross-entropy"])
def test_scales_are_about_the_root_mean_squares_of_the_step(loss):
    generator = torch.Generator().manual_seed(1)
    y = torch.randn(64, 8, generator=generator)
    batch = Batch(x=torch.randn(64, 32, generator=generator), y=y.argmax(1) if loss == "cross-entropy" else y)
    layers = initialise_layers((32, 64, 8), seed=1)
    scales = estimate_scales(layers, batch, loss=loss, lr=0.1)
    step = take_step(layers, batch, activation=ACTIVATIONS["none"], loss=LOSSES[loss], lr=0.1)
    pairs = [
        (scales.dh[0], rms(step.dh[0])),
        (scales.z[0], rms(step.z[0])),
        (scales.out, rms(step.out)),
        (scales.loss, float(step.loss)),
    ]
    for scale, gradient in zip(scales.gradients, step.gradients, strict=True):
        pairs += [(scale.W, rms(gradient.W)), (scale.b, rms(gradient.b))]
    for scale, found in pairs:
        assert found / 10 < scale < found * 10


def test_scales_follow_the_sizes_of_the_tensors():
    layers, batch = [Layer(W=torch.ones(2, 3), b=torch.zeros(2))], Batch(x=torch.ones(4, 3), y=torch.zeros(4, 2))
    one = estimate_scales(layers, batch, loss="mse", lr=0.1)
    ten = estimate_scales(layers, Batch(x=10 * batch.x, y=batch.y), loss="mse", lr=0.1)
    assert ten.out == pytest.approx(10 * one.out)
    assert ten.loss == pytest.approx(100 * one.loss)
    assert pytest.approx(100 * one.gradients[0].W) == ten.gradients[0].W
    later = estimate_scales(layers, batch, loss="mse", lr=0.0, step=4)
    assert pytest.approx(2 / 16) == later.updated[0].W  # four roundings of W are a random walk


def test_sixteen_bits_are_allowed_fewer_epsilons():
    assert count_epsilons(torch.bfloat16) < count_epsilons(torch.float32) == count_epsilons(torch.float64)
