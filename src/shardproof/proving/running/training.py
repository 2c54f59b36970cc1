"""The training step that the prover runs: forward, backward, clipping, update, with every tensor recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from shardproof.exact.engine.followed_numbers import FollowedNumber
from shardproof.proving.records import Phase
from shardproof.proving.running.capture import local_value, match_placements, unseen
from shardproof.proving.running.clipping import clip_model
from shardproof.proving.running.data_parallel import BatchSplit
from shardproof.proving.running.hooks import modules_recorded
from shardproof.proving.running.scheduled import ScheduledStages

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch.nn import Module
    from torch.optim import Optimizer

    from shardproof.proving.running.capture import Recorder
    from shardproof.proving.running.segments import Segments
    from shardproof.proving.step import Step


_WHOLE_BATCH = BatchSplit()


def train(
    model: Module,
    step: Step,
    batch: Any,
    recorder: Recorder,
    *,
    segments: Segments | None = None,
    split: BatchSplit = _WHOLE_BATCH,
    counted: Mapping[str, Tensor] | None = None,
    starts: bool = False,
) -> None:
    """Take the step's steps on one model.

    Args:
        model: the reference's, or the candidate's after sharding.
        step: what a step is.
        batch: the rows that this device takes.
        recorder: fills the records in execution order.
        segments: in exact arithmetic, the cuts, and what each step starts from.
        split: how the batch is split over ranks.
        counted: which elements of its parameters a rank counts in the gradient norm; None on one device.
        starts: the parameters before each update are recorded too.
    """
    optimizer = step.optimizer(list(model.parameters())) if step.optimizer else None
    for number in range(step.steps):
        recorder.step = number
        model.zero_grad(set_to_none=True)
        with modules_recorded(model, recorder, segments, enlarged=split.enlarged):
            if isinstance(model, ScheduledStages):
                loss = model.take(step, batch)
                recorder.add(Phase.LOSS, "loss", split.mean_loss(loss))
            else:
                loss = step.compute_loss(model, batch)
                recorder.add(Phase.LOSS, "loss", split.mean_loss(loss.detach()))
                loss.backward()
        record_gradients(model, Phase.GRADIENT, recorder, segments)
        if step.clips:
            record_norm(recorder, clip_model(model, step, counted))
            record_gradients(model, Phase.CLIPPED, recorder, segments)
        if optimizer is None:
            break
        for name, parameter in model.named_parameters() if starts else ():
            recorder.add_start(name, parameter)
        optimizer.step()
        record_update(model, optimizer, recorder)
        if segments is not None and number + 1 < step.steps:
            renew_state(model, optimizer, segments, number + 1)


def renew_state(model: Module, optimizer: Optimizer | None, segments: Segments, taken: int) -> None:
    """Let the parameters and the optimizer's state go on from fresh residues, after so many steps."""
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue  # no step changes it, and a sharding may keep copies of it
        segments.renew(name, parameter.detach(), f"parameters after step {taken}")
        for key, state in states_of(optimizer, parameter).items():
            segments.renew(name, state, f"optimizer state {key} after step {taken}")


def record_gradients(model: Module, phase: Phase, recorder: Recorder, segments: Segments | None = None) -> None:
    """Record every parameter's gradient, as it is now; a run in segments continues with fresh residues instead."""
    for name, parameter in model.named_parameters():
        with unseen():
            gradient = match_placements(parameter.grad, parameter)
        recorder.add(phase, name, gradient, frozen=not parameter.requires_grad)
        if segments is not None:
            segments.renew_gradient(name, parameter, f"{phase} of step {recorder.step + 1}")


def record_norm(recorder: Recorder, norm: Tensor | float | None) -> None:
    """Record the norm that clipped the gradients, and its square, in which a wrong sum shows; None: it is not known."""
    if norm is None:
        return
    if isinstance(norm, FollowedNumber):
        norm = norm.tensor  # as it was read, whatever a branch has told of it since
    elif not isinstance(norm, Tensor):
        norm = torch.tensor(norm, dtype=torch.get_default_dtype())
    key = recorder.add(Phase.NORM, "gradient norm", norm)
    recorder.add_square(key, norm)


def states_of(optimizer: Optimizer | None, parameter: Tensor) -> dict[str, Tensor]:
    """The optimizer's states of the parameter's shape (moments, not counters), in the order of their names; or none.

    Beside a DTensor a state may be a plain tensor: of the shape of the rank's own part, or of the whole.
    """
    with unseen():
        whole, own = parameter.shape, local_value(parameter).shape
        return {
            key: value
            for key, value in sorted(({} if optimizer is None else optimizer.state.get(parameter, {})).items())
            if isinstance(value, Tensor) and (value.shape == whole or (type(value) is Tensor and value.shape == own))
        }


def record_update(model: Module, optimizer: Optimizer | None, recorder: Recorder) -> None:
    """Record the optimizer's state of each parameter, the updated parameter, and buffers."""
    for name, parameter in model.named_parameters():
        for key, value in states_of(optimizer, parameter).items():
            recorder.add(Phase.STATE, f"{name}/{key}", value)
        recorder.add(Phase.UPDATE, name, parameter.detach())  # computed from the state
    for name, buffer in model.named_buffers():
        recorder.add(Phase.BUFFER, name, buffer)
    recorder.records.unwatched_states.update(_unwatched_states(model, optimizer))
    recorder.records.modules.update(name for name, _ in model.named_modules())


def _unwatched_states(model: Module, optimizer: Optimizer | None) -> set[str]:
    """The states of parameters that the optimizer has and the model does not: flat buffers that nobody watches."""
    held = {id(parameter) for parameter in model.parameters()}
    groups = [] if optimizer is None else optimizer.param_groups
    others = [parameter for group in groups for parameter in group["params"] if id(parameter) not in held]
    return {f"{key} {list(value.shape)}" for one in others for key, value in states_of(optimizer, one).items()}
