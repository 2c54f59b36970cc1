"""The training step that the prover runs: forward, backward, clipping, update, with every tensor recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from shardproof.proving.records import Phase
from shardproof.proving.running.hooks import watched
from shardproof.proving.running.shares import Shares

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.nn import Module
    from torch.optim import Optimizer

    from shardproof.proving.records import Records
    from shardproof.proving.running.segments import Segments
    from shardproof.proving.step import Step


_ALL = Shares()


def train(
    model: Module,
    step: Step,
    batch: Any,
    records: Records,
    segments: Segments | None = None,
    shares: Shares = _ALL,
) -> None:
    """Take the step's steps on one model.

    Args:
        model: the reference's, or the candidate's after sharding.
        step: what a step is.
        batch: the rows that this device takes.
        records: filled in execution order.
        segments: in exact arithmetic, where the steps are taken apart; each starts from fresh residues.
        shares: how the batch is shared out over ranks.
    """
    optimizer = step.optimizer(list(model.parameters())) if step.optimizer else None
    for number in range(step.steps):
        records.step = number
        model.zero_grad(set_to_none=True)
        with watched(model, records, segments):
            loss = step.compute_loss(model, batch)
            records.add(Phase.LOSS, "loss", shares.mean(loss.detach()))
            shares.go_back(loss, model)
        record_gradients(model, Phase.GRADIENT, records, segments)
        if step.clip_norm is not None:
            records.add(Phase.NORM, "gradient norm", clip_gradients(model, step.clip_norm))
            record_gradients(model, Phase.CLIPPED, records, segments)
        if optimizer is None:
            break
        optimizer.step()
        record_update(model, optimizer, records)
        if segments is not None and number + 1 < step.steps:
            for parameter in model.parameters():
                segments.renew(parameter.detach(), "step")
                for state in states_of(optimizer, parameter).values():
                    segments.renew(state, "step")


def record_gradients(model: Module, phase: Phase, records: Records, segments: Segments | None = None) -> None:
    """Record every parameter's gradient, as it is now; a run in segments goes on with fresh ones."""
    for name, parameter in model.named_parameters():
        records.add(phase, name, settled(parameter.grad, parameter))
        if segments is not None and parameter.grad is not None:
            segments.renew_gradient(parameter.grad)


def states_of(optimizer: Optimizer, parameter: Tensor) -> dict[str, Tensor]:
    """The optimizer's states that lie as the parameter does (moments, not counters), by name in order."""
    return {
        key: value
        for key, value in sorted(optimizer.state.get(parameter, {}).items())
        if isinstance(value, Tensor) and value.shape == parameter.shape
    }


def settled(gradient: Tensor | None, parameter: Tensor) -> Tensor | None:
    """A gradient laid out as its parameter: a DTensor may still owe a reduction, which its next use would pay."""
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


def record_update(model: Module, optimizer: Optimizer | None, records: Records) -> None:
    """Record updated parameters, the optimizer's state of each, and buffers."""
    for name, parameter in model.named_parameters():
        records.add(Phase.UPDATE, name, parameter.detach())
        for key, value in (states_of(optimizer, parameter) if optimizer else {}).items():
            records.add(Phase.STATE, f"{name}/{key}", value)
    for name, buffer in model.named_buffers():
        if buffer.is_floating_point():
            records.add(Phase.BUFFER, name, buffer)
