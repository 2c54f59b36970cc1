"""Data-parallel gradients of a float32 model are averaged in bfloat16 to save bytes."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor, nn

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.configuration import Configuration, on_mesh
from benchmarks.mutants.models.two_layers import two_layer_step
from shardproof.proving.cause import CauseKind


def plant(planted: bool) -> Configuration:
    def average(gradient: Tensor) -> Tensor:
        sent = gradient.bfloat16() if planted else gradient.clone()
        dist.all_reduce(sent)
        return sent.to(gradient.dtype) / dist.get_world_size()

    def parallelize(model: nn.Module, _mesh: object) -> nn.Module:
        for parameter in model.parameters():
            parameter.register_hook(average)
        return model

    return on_mesh("gradients averaged in hooks", two_layer_step(), parallelize, {"dp": 2})


BUG = Bug(
    id="M67",
    name="bfloat16-gradients",
    phase="N",
    seen_in="pytorch#186998",
    root="*",
    cause=CauseKind.LOWER_DTYPE_COLLECTIVE,
    plant=plant,
)
