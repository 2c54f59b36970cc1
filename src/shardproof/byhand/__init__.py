"""A training step as plain arithmetic, on one device and on N. No autograd here, except in `reference.py`.

The pieces of examples/by_hand.ipynb, and the functions that it writes out, have their names here.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shardproof.byhand.comparisons import cmp
    from shardproof.byhand.data import Batch, RandomTensorDataset, draw_samples
    from shardproof.byhand.functions import (
        linear_backward_bias,
        linear_backward_input,
        linear_backward_weight,
        linear_forward,
        mean_squared_error_backward,
        mean_squared_error_forward,
    )
    from shardproof.byhand.model import Layer, initialise_layers
    from shardproof.byhand.n_devices import train_on_rank
    from shardproof.byhand.one_device import take_step
    from shardproof.byhand.reference import MLP
    from shardproof.byhand.settings import Settings
    from shardproof.byhand.walkthrough import take_steps

__all__ = [
    "MLP",
    "Batch",
    "Layer",
    "RandomTensorDataset",
    "Settings",
    "cmp",
    "draw_samples",
    "initialise_layers",
    "linear_backward_bias",
    "linear_backward_input",
    "linear_backward_weight",
    "linear_forward",
    "mean_squared_error_backward",
    "mean_squared_error_forward",
    "take_step",
    "take_steps",
    "train_on_rank",
]

# Each name is imported when it is first used: a module of this package imports another without importing all.
_MODULES = {
    "MLP": "reference",
    "Batch": "data",
    "Layer": "model",
    "RandomTensorDataset": "data",
    "Settings": "settings",
    "cmp": "comparisons",
    "draw_samples": "data",
    "initialise_layers": "model",
    "linear_backward_bias": "functions",
    "linear_backward_input": "functions",
    "linear_backward_weight": "functions",
    "linear_forward": "functions",
    "mean_squared_error_backward": "functions",
    "mean_squared_error_forward": "functions",
    "take_step": "one_device",
    "take_steps": "walkthrough",
    "train_on_rank": "n_devices",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        msg = f"module 'shardproof.byhand' has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(f"shardproof.byhand.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
