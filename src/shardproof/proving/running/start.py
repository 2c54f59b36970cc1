"""Start: the values that the runs of both sides start from, drawn on one device."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shardproof.proving.running.models import draw_buffers, draw_parameters, nudge_parameters, tensors_of_state
from shardproof.proving.running.request import Start

if TYPE_CHECKING:
    from torch import Tensor, nn


def start_exact(model: nn.Module, seed: int) -> Start:
    """What runs in exact arithmetic start from: every element of every parameter has a value of its own.

    Args:
        model: the user's, as it is built; it is not to be used any more.
        seed: that it was built from.
    """
    model.double()
    draw_parameters(model, seed)
    drawn = draw_buffers(model, seed)
    state = _copy_state(model)
    # Of the same memory: neither is written into.
    drawn |= {name: state[name] if name in state else x.detach().clone() for name, x in model.named_parameters()}
    return Start(state=state, drawn=drawn)


def start_ordinary(model: nn.Module, seed: int) -> Start:
    """What runs in ordinary arithmetic start from: near the user's own initial values, all different in float64.

    Args:
        model: the user's, as it is built; it is not to be used any more.
        seed: that it was built from.
    """
    model.double()
    nudge_parameters(model, seed)
    drawn = draw_buffers(model, seed)
    return Start(state=_copy_state(model), drawn=drawn)


def _copy_state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in tensors_of_state(model).items()}
