"""The reference is PyTorch's own step."""

from __future__ import annotations

import pytest
import torch
from torch import nn, optim

from shardproof.byhand import reference
from shardproof.byhand.settings import Settings
from shardproof.byhand.walkthrough import draw_batches


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


def test_parameters_read_are_copies():
    model = reference.build_model((3, 2), activation="none", seed=1, dtype=torch.float32)
    (layer,) = reference.read_layers(model)
    assert torch.equal(layer.W, model[0].weight)
    with torch.no_grad():
        model[0].weight.zero_()
    assert layer.W.abs().sum() > 0
