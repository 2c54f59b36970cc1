"""Meshes with a data axis: FSDP2 and data parallelism by hand, alone and beside tensor parallelism."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard

from benchmarks.mutants.configuration import CAST, Configuration, on_mesh
from benchmarks.mutants.correct.blocks import NORMS, Language, language_loss, make_ids, split_sequences, whole_sequences
from benchmarks.mutants.correct.layers import MLP, by_plan, column_row, make_batch
from benchmarks.mutants.steps import adamw, momentum, sgd
from shardproof.frameworks.transformers import OwnPlan, PlanChange, tiny_step
from shardproof.proving.step import Step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch.distributed.device_mesh import DeviceMesh


def fsdp(model: nn.Module, mesh: DeviceMesh, **options: Any) -> nn.Module:
    """FSDP2 over dp, each linear layer and then the rest."""
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh["dp"], **options)
    return fully_shard(model, mesh=mesh["dp"], **options)


def fsdp_of_blocks(model: nn.Module, mesh: DeviceMesh, blocks: str) -> nn.Module:
    for block in model.get_submodule(blocks):
        fully_shard(block, mesh=mesh["dp"])
    return fully_shard(model, mesh=mesh["dp"])


def root_only(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    return fully_shard(model, mesh=mesh["dp"])


def last_dim(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    return fully_shard(model, mesh=mesh["dp"], shard_placement_fn=lambda p: Shard(p.ndim - 1))


def hybrid(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    return fully_shard(model, mesh=mesh["dp_replicate", "dp_shard"])


def with_tensor_parallel(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    return fsdp(by_plan(column_row)(model, mesh["tp"]), mesh)


def averaged_in_hooks(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Tensor parallel over tp; each gradient is averaged over dp as soon as it is there."""
    group, size = mesh["dp"].get_group(), mesh["dp"].size()

    def average(gradient: Tensor) -> Tensor:
        local = gradient.to_local() if isinstance(gradient, DTensor) else gradient
        local = local.clone()
        dist.all_reduce(local, group=group)
        local /= size
        if isinstance(gradient, DTensor):
            return DTensor.from_local(local, gradient.device_mesh, gradient.placements, run_check=False)
        return local

    model = by_plan(column_row)(model, mesh["tp"])
    for parameter in model.parameters():
        parameter.register_hook(average)
    return model


def language(model: nn.Module, mesh: DeviceMesh, plan: Callable[[nn.Module, DeviceMesh], nn.Module]) -> nn.Module:
    return fsdp_of_blocks(plan(model, mesh["tp"]), mesh, "blocks")


def own_plan(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    return fsdp_of_blocks(OwnPlan(change=PlanChange())(model, mesh["tp"]), mesh, "model.layers")


MLPS: tuple[tuple[str, Callable[[nn.Module, DeviceMesh], nn.Module], Mapping[str, int]], ...] = (
    ("FSDP2", fsdp, {"dp": 2}),
    ("FSDP2", fsdp, {"dp": 3}),
    ("FSDP2", fsdp, {"dp": 4}),
    ("FSDP2 kept whole after the forward", partial(fsdp, reshard_after_forward=False), {"dp": 2}),
    ("FSDP2 of the root only", root_only, {"dp": 3}),
    ("FSDP2 along the last dim", last_dim, {"dp": 2}),
    ("FSDP2, hybrid", hybrid, {"dp_replicate": 2, "dp_shard": 2}),
    ("FSDP2 and tensor parallel", with_tensor_parallel, {"dp": 2, "tp": 2}),
    ("FSDP2 and tensor parallel", with_tensor_parallel, {"dp": 3, "tp": 2}),
    ("FSDP2 and tensor parallel", with_tensor_parallel, {"dp": 2, "tp": 4}),
    ("averaged in hooks, tensor parallel", averaged_in_hooks, {"dp": 2, "tp": 2}),
    ("averaged in hooks, tensor parallel", averaged_in_hooks, {"tp": 2, "dp": 2}),
)


def configurations() -> Iterator[Configuration]:
    """MLPs, language models under both plans, transformers by their own."""
    optimizers = (adamw, sgd, momentum)
    for number, (name, parallelize, mesh) in enumerate(MLPS):
        model = (MLP, partial(MLP, 16, bias=False))[number % 2]
        optimizer = optimizers[number % 3]
        step = Step(model=model, batch=make_batch(12), loss=F.mse_loss, optimizer=optimizer, clip_norm=1.0, steps=2)
        yield on_mesh(name, step, parallelize, mesh)
    both = {"dp": 2, "tp": 2}
    for name in ("LayerNorm", "RMSNorm"):
        step = Step(
            model=partial(Language, 12, norm=NORMS[name]),
            batch=make_ids(12, rows=4),
            forward=language_loss,
            optimizer=adamw,
            clip_norm=1.0,
            steps=2,
        )
        for plan in (whole_sequences, split_sequences):
            words = plan.__name__.replace("_", " ")
            yield on_mesh(f"FSDP2, {words}, {name}", step, partial(language, plan=plan), both)
    for kind in ("llama", "qwen3", "gemma2", "mixtral"):
        yield Configuration(
            name=f"FSDP2, transformers' {kind}, dp 2 x tp 2",
            make_step=partial(one_step, kind),
            parallelize=own_plan,
            mesh=both,
            tolerance=CAST,
        )


def one_step(kind: str) -> Step:
    """One layer; transformers is imported only here."""
    return replace(tiny_step(kind, {"num_hidden_layers": 1}), steps=1)
