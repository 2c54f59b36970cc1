"""Start: the values that the runs of both sides start from, drawn on one device."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shardproof.proving.running.models import (
    build_model,
    draw_buffers,
    draw_parameters,
    nudge_parameters,
    tensors_of_state,
)
from shardproof.proving.running.request import Start

if TYPE_CHECKING:
    from shardproof.proving.step import Step


def start_exact(step: Step, seed: int) -> Start:
    """What runs in exact arithmetic start from: every element of every parameter has a value of its own.

    Raises:
        CannotRunError: the model cannot be built.
    """
    model = build_model(step, seed).double()
    draw_parameters(model, seed)
    drawn = draw_buffers(model, seed)
    state = {name: tensor.clone() for name, tensor in tensors_of_state(model).items()}
    # Of the same memory: neither is written into.
    drawn |= {name: state[name] if name in state else x.detach().clone() for name, x in model.named_parameters()}
    return Start(state=state, drawn=drawn)


def start_ordinary(step: Step, seed: int) -> Start:
    """What runs in ordinary arithmetic start from: near the user's own initial values, all different in float64.

    Raises:
        CannotRunError: the model cannot be built.
    """
    model = build_model(step, seed).double()
    nudge_parameters(model, seed)
    drawn = draw_buffers(model, seed)
    return Start(state={name: tensor.clone() for name, tensor in tensors_of_state(model).items()}, drawn=drawn)
