"""Replay: the user's optimizer on one device, on the candidate's own gradients and states.

Only the updates are computed again. Each step starts from what the candidate has after the step before.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import nn

from shardproof.proving.deviation import largest_difference, measure_deviation
from shardproof.proving.records import Phase, Precision, Replay
from shardproof.proving.running.capture import Recorder
from shardproof.proving.running.measuring import MeasuringRecorder
from shardproof.proving.running.models import dtype_of
from shardproof.proving.running.training import states_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from shardproof.proving.deviation import Deviation
    from shardproof.proving.records import Key, UpdateInputs, UpdateStep
    from shardproof.proving.step import Step

R = TypeVar("R", bound=Recorder)


def replay_updates(step: Step, inputs: Sequence[UpdateInputs], *, in_float64: bool) -> tuple[Replay, ...]:
    """The updates that one device makes of the candidate's inputs, measured in float64 and in a precision that rounds.

    Args:
        step: has the optimizer.
        inputs: of the candidate's updates, in the user's own dtypes.
        in_float64: these are float64; then it is float32 that rounds.

    Returns:
        Nothing where the optimizer cannot be run so, whatever it raises: then updates are compared with the
        reference's own.
    """
    unclipped = any(not update.clipped for one in inputs for update in one.steps)
    if step.optimizer is None or (unclipped and step.clip is not None and step.clip_norm is None):
        return ()  # how the gradients were clipped on one device cannot be told from a norm
    own, other = (Precision.FLOAT64, Precision.FLOAT32) if in_float64 else (Precision.OWN, Precision.FLOAT64)
    found = []
    for one in inputs:
        try:
            kept = _replay(step, one, own, Recorder()).records
            measuring = MeasuringRecorder(beside=kept, measure=partial(_measure, one, in_float64))
            _replay(step, one, other, measuring)
        except Exception:  # noqa: BLE001 - whatever the user's optimizer raises
            return ()
        measured = measuring.finish()
        found.append(
            Replay(
                ranks=one.ranks,
                own=kept,
                errors={key: error for key, (error, _) in measured.items()},
                deviations={key: deviation for key, (_, deviation) in measured.items()},
            )
        )
    return tuple(found)


def _measure(
    inputs: UpdateInputs, in_float64: bool, key: Key, measured: Tensor, own: Tensor
) -> tuple[float, Deviation | None]:
    """How far the candidate's update or state is from that in float64, and so the one that rounds."""
    name, _, state = key.name.partition("/")
    step = inputs.steps[key.step]
    candidate = (step.states.get(state, {}) if state else step.updates).get(name)
    rounding, exact = (measured, own) if in_float64 else (own, measured)
    error = math.inf if candidate is None else largest_difference(candidate, exact)
    return error, None if candidate is None else measure_deviation(rounding, exact, masks=False)


def _replay(step: Step, inputs: UpdateInputs, precision: Precision, recorder: R) -> R:
    """Record the updated parameters and the states after each step."""
    assert step.optimizer is not None
    dtype = dtype_of(precision)
    parameters = {name: nn.Parameter(values.to(dtype, copy=True)) for name, values in inputs.parameters.items()}
    optimizer = step.optimizer(list(parameters.values()))
    for number, one in enumerate(inputs.steps):
        recorder.step = number
        for name, parameter in parameters.items():
            gradient = one.gradients.get(name)
            parameter.grad = None if gradient is None else gradient.to(parameter.dtype, copy=True)
        if step.clip_norm is not None and not one.clipped:
            torch.nn.utils.clip_grad_norm_(parameters.values(), step.clip_norm)
        optimizer.step()
        for name, parameter in parameters.items():
            recorder.add(Phase.UPDATE, name, parameter.detach())
            for key, value in states_of(optimizer, parameter).items():
                recorder.add(Phase.STATE, f"{name}/{key}", value)
        _take_over(optimizer, parameters, one)
    return recorder


def _take_over(optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor], one: UpdateStep) -> None:
    """Put the candidate's own parameters and states in place of those computed."""
    with torch.no_grad():
        for name, parameter in parameters.items():
            if name in one.updates:
                parameter.copy_(one.updates[name])
            for key, value in states_of(optimizer, parameter).items():
                if name in one.states.get(key, {}):
                    value.copy_(one.states[key][name])
