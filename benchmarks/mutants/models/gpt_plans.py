"""Ways of sharding the decoder of `gpt.py`, by name: each takes (model, mesh) and uses the axes that it names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

from benchmarks.mutants.models.megatron import megatron, megatron_sequence
from shardproof.parallel import (
    Column,
    Dropout,
    GradientAllReduce,
    Row,
    SharedInput,
    VocabularyLoss,
    VocabularyRows,
    parallelize,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.distributed.device_mesh import DeviceMesh


def plain_shards(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """This project's own plan: plain tensors, vocabulary and loss split."""
    plan: dict[str, Any] = {
        "embedding": VocabularyRows(),
        "blocks.*.attention": SharedInput(),
        **{f"blocks.*.attention.{name}": Column(input_shared=True) for name in ("wq", "wk", "wv")},
        "blocks.*.attention.wo": Row(),
        "blocks.*.up": Column(),
        "blocks.*.down": Row(),
        "head": Column(),
        "loss": VocabularyLoss(vocabulary=model.sizes.vocabulary),
    }
    if model.sizes.mlp == "gated":
        plan["blocks.*.gate"] = Column()
    if model.sizes.head_norms:
        plan |= {"blocks.*.attention.q_norm": GradientAllReduce(), "blocks.*.attention.k_norm": GradientAllReduce()}
    if model.sizes.dropout:
        plan["blocks.*.drop"] = Dropout(placement=Replicate())
    own = mesh["tp"]
    for block in model.blocks:
        block.attention.first_head = own.get_local_rank() * model.sizes.heads // own.size()
    return parallelize(model, own, plan)


def whole_sequences(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """DTensor by PyTorch's styles; activations between layers are whole."""
    plan: dict[str, Any] = {
        "embedding": RowwiseParallel(input_layouts=Replicate()),
        "head": ColwiseParallel(output_layouts=Replicate()),
    }
    for i, block in enumerate(model.blocks):
        plan |= {f"blocks.{i}.attention.{name}": ColwiseParallel() for name in ("wq", "wk", "wv")}
        plan |= {f"blocks.{i}.attention.wo": RowwiseParallel(), f"blocks.{i}.down": RowwiseParallel()}
        plan |= {f"blocks.{i}.{name}": ColwiseParallel() for name in ("up", "gate") if hasattr(block, name)}
    return _sharded(model, mesh["tp"], plan)


def split_sequences(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """DTensor as torchtitan does it: norms and residuals on shards of the sequence."""
    plan: dict[str, Any] = {
        "embedding": RowwiseParallel(input_layouts=Replicate(), output_layouts=Shard(1)),
        "norm": SequenceParallel(),
        "head": ColwiseParallel(input_layouts=Shard(1), output_layouts=Replicate()),
    }
    if model.sizes.positions == "learned":
        plan["position"] = RowwiseParallel(input_layouts=Replicate(), output_layouts=Shard(0))
    gather = PrepareModuleInput(input_layouts=(Shard(1),), desired_input_layouts=(Replicate(),))
    for i, block in enumerate(model.blocks):
        plan |= {f"blocks.{i}.attention_norm": SequenceParallel(), f"blocks.{i}.mlp_norm": SequenceParallel()}
        plan |= {f"blocks.{i}.attention": gather}
        plan |= {f"blocks.{i}.attention.{name}": ColwiseParallel() for name in ("wq", "wk", "wv")}
        plan |= {f"blocks.{i}.attention.wo": RowwiseParallel(output_layouts=Shard(1))}
        for name in ("up", "gate"):
            if hasattr(block, name):
                plan[f"blocks.{i}.{name}"] = ColwiseParallel(input_layouts=Shard(1))
        plan |= {f"blocks.{i}.down": RowwiseParallel(output_layouts=Shard(1))}
    return _sharded(model, mesh["tp"], plan)


def fsdp(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """FSDP2 over dp, block by block, then the rest."""
    for block in model.blocks:
        fully_shard(block, mesh=mesh["dp"])
    return fully_shard(model, mesh=mesh["dp"])


def fsdp_of_leaves(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """FSDP2 over dp, every linear layer for itself, kept whole after its forward."""
    for module in model.modules():
        if isinstance(module, nn.Linear) and module is not model.head:
            fully_shard(module, mesh=mesh["dp"], reshard_after_forward=False)
    return fully_shard(model, mesh=mesh["dp"])


def hsdp(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """FSDP2 over one axis, replicas over another."""
    for block in model.blocks:
        fully_shard(block, mesh=mesh["dp_replicate", "dp_shard"])
    return fully_shard(model, mesh=mesh["dp_replicate", "dp_shard"])


def fsdp_whole_sequences(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """FSDP2 over dp of what DTensor has split over tp."""
    return fsdp(whole_sequences(model, mesh), mesh)


def fsdp_split_sequences(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """FSDP2 over dp of what DTensor has split over tp, with sequences split too."""
    return fsdp(split_sequences(model, mesh), mesh)


def _sharded(model: nn.Module, mesh: DeviceMesh, plan: dict[str, Any]) -> nn.Module:
    model = parallelize_module(model, mesh, plan)
    for block in model.blocks:
        block.attention.first_head = mesh.get_local_rank() * model.sizes.heads // mesh.size()
    if model.tied:
        model.head.weight = model.embedding.weight
    return model


PLANS: dict[str, Callable[[nn.Module, DeviceMesh], nn.Module]] = {
    "plain shards": plain_shards,
    "DTensor, whole sequences": whole_sequences,
    "DTensor, split sequences": split_sequences,
    "Megatron": megatron,
    "Megatron, split sequences": megatron_sequence,
    "FSDP2": fsdp,
    "FSDP2 of leaves": fsdp_of_leaves,
    "HSDP": hsdp,
    "FSDP2, whole sequences": fsdp_whole_sequences,
    "FSDP2, split sequences": fsdp_split_sequences,
}
