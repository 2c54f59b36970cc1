"""The step on one device is autograd's, at any depth and with every function."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from shardproof.byhand.data import Batch
from shardproof.byhand.functions import ACTIVATIONS, LOSSES
from shardproof.byhand.model import Layer, initialise_layers
from shardproof.byhand.one_device import take_step, update

ACTIVATE = {"none": lambda z: z, "relu": functional.relu, "gelu": functional.gelu}
LOSS = {"mse": functional.mse_loss, "cross-entropy": functional.cross_entropy}


@pytest.mark.parametrize("widths", [(3, 2), (3, 5, 2), (4, 3, 6, 5)])
@pytest.mark.parametrize("activation", ACTIVATE)
@pytest.mark.parametrize("loss", LOSS)
def test_a_step_is_autograds(widths, activation, loss):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(7, widths[0], generator=generator, dtype=torch.float64)
    y = torch.randn(7, widths[-1], generator=generator, dtype=torch.float64)
    batch = Batch(x=x, y=y.argmax(1) if loss == "cross-entropy" else y)
    layers = initialise_layers(widths, seed=4, dtype=torch.float64)
    step = take_step(layers, batch, activation=ACTIVATIONS[activation], loss=LOSSES[loss], lr=0.1)

    parameters = [(layer.W.clone().requires_grad_(), layer.b.clone().requires_grad_()) for layer in layers]
    h = x
    for W, b in parameters[:-1]:
        h = ACTIVATE[activation](functional.linear(h, W, b))
    out = functional.linear(h, *parameters[-1])
    expected = LOSS[loss](out, batch.y)
    expected.backward()
    torch.testing.assert_close((step.out, step.loss), (out.detach(), expected.detach()))
    for ours, updated, (W, b) in zip(step.gradients, step.updated, parameters, strict=True):
        torch.testing.assert_close((ours.W, ours.b), (W.grad, b.grad))
        torch.testing.assert_close((updated.W, updated.b), (W.detach() - 0.1 * W.grad, b.detach() - 0.1 * b.grad))


def test_an_update_goes_against_the_gradient():
    one = torch.ones(2, 2)
    (updated,) = update([Layer(W=one, b=one[0])], [Layer(W=2 * one, b=4 * one[0])], 0.25)
    assert updated.W.unique().tolist() == [0.5]
    assert updated.b.unique().tolist() == [0]
