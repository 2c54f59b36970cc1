"""The training step that the prover runs: forward, backward, clipping, update, with every tensor recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from shardproof.proving.records import Phase
from shardproof.proving.running.data_parallel import BatchSplit
from shardproof.proving.running.hooks import modules_recorded

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
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
) -> None:
    """Take the step's steps on one model.

    Args:
        model: the reference's, or the candidate's after sharding.
        step: what a step is.
        batch: the rows that this device takes.
        recorder: fills the records in execution order.
        segments: in exact arithmetic, the cuts; each step then starts from fresh residues too.
        split: how the batch is split over ranks.
    """
    optimizer = step.optimizer(list(model.parameters())) if step.optimizer else None
    for number in range(step.steps):
        recorder.step = number
        model.zero_grad(set_to_none=True)
        with modules_recorded(model, recorder, segments):
            loss = step.compute_loss(model, batch)
            recorder.add(Phase.LOSS, "loss", split.mean_loss(loss.detach()))
            split.backward(loss, model)
        record_gradients(model, Phase.GRADIENT, recorder, segments)
        if step.clip_norm is not None:
            recorder.add(Phase.NORM, "gradient norm", clip_gradients(model, step.clip_norm))
            record_gradients(model, Phase.CLIPPED, recorder, segments)
        if optimizer is None:
            break
        optimizer.step()
        record_update(model, optimizer, recorder)
        if segments is not None and number + 1 < step.steps:
            for name, parameter in model.named_parameters():
                if not parameter.requires_grad:
                    continue  # no step changes it, and a sharding may keep copies of it
                segments.renew(name, parameter.detach(), f"parameters after step {number + 1}")
                for key, state in states_of(optimizer, parameter).items():
                    segments.renew(name, state, f"optimizer state {key} after step {number + 1}")


def record_gradients(model: Module, phase: Phase, recorder: Recorder, segments: Segments | None = None) -> None:
    """Record every parameter's gradient, as it is now; a run in segments continues with fresh residues instead."""
    for name, parameter in model.named_parameters():
        gradient = match_placements(parameter.grad, parameter)
        recorder.add(phase, name, gradient, frozen=not parameter.requires_grad)
        if segments is not None:
            segments.renew_gradient(name, parameter, f"{phase} of step {recorder.step + 1}")


def states_of(optimizer: Optimizer, parameter: Tensor) -> dict[str, Tensor]:
    """The optimizer's states of the parameter's shape (moments, not counters), in the order of their names."""
    return {
        key: value
        for key, value in sorted(optimizer.state.get(parameter, {}).items())
        if isinstance(value, Tensor) and value.shape == parameter.shape
    }


def match_placements(gradient: Tensor | None, parameter: Tensor) -> Tensor | None:
    """A gradient with its parameter's placements: a DTensor's may be Partial, and its next use would reduce it."""
    from torch.distributed.tensor import DTensor

    if isinstance(gradient, DTensor) and isinstance(parameter, DTensor):
        return gradient.redistribute(placements=parameter.placements)
    return gradient


def clip_gradients(model: Module, max_norm: float) -> Tensor:
    """Clip to the norm over the whole model, as `clip_grad_norm_` does; return the norm.

    PyTorch's own refuses gradients on different meshes (FSDP2 over dp beside FSDP2 over dp and tp), and a mixture with
    plain (replicated) tensors, which transformers' plans leave behind.
    """
    from torch.distributed.tensor import DTensor

    on_mesh: dict[DeviceMesh | None, list[Tensor]] = {}
    for parameter in model.parameters():
        if parameter.grad is not None:
            on_mesh.setdefault(getattr(parameter.grad, "device_mesh", None), []).append(parameter)
    norms = []
    for group in on_mesh.values():
        norm = torch.nn.utils.get_total_norm([one.grad for one in group if one.grad is not None])
        norms.append(norm.full_tensor() if isinstance(norm, DTensor) else norm)
    total = norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))
    for group in on_mesh.values():
        torch.nn.utils.clip_grads_with_norm_(group, max_norm, total)
    return total


def record_update(model: Module, optimizer: Optimizer | None, recorder: Recorder) -> None:
    """Record updated parameters, the optimizer's state of each, and buffers."""
    for name, parameter in model.named_parameters():
        recorder.add(Phase.UPDATE, name, parameter.detach())
        for key, value in (states_of(optimizer, parameter) if optimizer else {}).items():
            recorder.add(Phase.STATE, f"{name}/{key}", value)
    for name, buffer in model.named_buffers():
        recorder.add(Phase.BUFFER, name, buffer)
