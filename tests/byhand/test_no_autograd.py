"""By hand means by hand: only `reference.py` may know autograd, modules or optimizers."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import shardproof.byhand
from shardproof.byhand.functions import ACTIVATIONS, LOSSES
from shardproof.byhand.model import initialise_layers
from shardproof.byhand.one_device import take_step
from shardproof.byhand.settings import Settings
from shardproof.byhand.walkthrough import draw_batches

FOLDER = Path(shardproof.byhand.__file__).parent
FORBIDDEN = {"autograd", "nn", "optim", "backward_hook", "requires_grad", "requires_grad_", "func", "grad", "vjp"}


def find_forbidden(source: str) -> set[str]:
    """Names of PyTorch's own differentiation that a file uses: imported, or as attributes."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {part for alias in node.names for part in alias.name.split(".")}
        elif isinstance(node, ast.ImportFrom):
            found |= {*(node.module or "").split("."), *(alias.name for alias in node.names)}
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
    return found & FORBIDDEN


@pytest.mark.parametrize("file", sorted(FOLDER.rglob("*.py")), ids=lambda file: file.name)
def test_only_the_reference_uses_autograd(file):
    found = find_forbidden(file.read_text())
    assert found if file.name == "reference.py" else not found


@pytest.mark.parametrize(
    "source",
    [
        "from torch import nn",
        "import torch.nn.functional as f",
        "x.requires_grad_()",
        "torch.autograd.grad(a, b)",
        "from torch.optim import SGD",
        "g = W.grad",
    ],
)
def test_the_search_finds_autograd(source):
    assert find_forbidden(source)


def test_no_tensor_of_the_step_requires_grad():
    settings = Settings()
    (batch,) = draw_batches(settings)
    layers = initialise_layers(settings.widths, seed=1)
    step = take_step(layers, batch, activation=ACTIVATIONS["relu"], loss=LOSSES["mse"], lr=0.1)
    tensors = [step.out, step.loss, *step.z]
    tensors += [tensor for layer in (*step.gradients, *step.updated) for tensor in (layer.W, layer.b)]
    assert not any(tensor.requires_grad for tensor in tensors)
