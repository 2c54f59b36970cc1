"""PyTorch's own styles on whole models: whole and split sequences, embeddings, losses on shards, experts."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    loss_parallel,
    parallelize_module,
)
from torch.testing._internal.distributed._tensor.common_dtensor import (
    ExpertLayer,
    ModelArgs,
    TensorParallelForExpert,
)
from torch.testing._internal.distributed._tensor.common_dtensor import Transformer as TorchTransformer

from benchmarks.mutants.configuration import sharded
from benchmarks.mutants.correct.attention import HIDDEN, Attention
from benchmarks.mutants.correct.layers import by_plan
from benchmarks.mutants.steps import adamw
from shardproof.proving.step import Step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch.distributed.device_mesh import DeviceMesh

    from benchmarks.mutants.configuration import Configuration


class Block(nn.Module):
    """Attention and MLP, each behind a norm and beside a residual; x is [B, S, 6]."""

    def __init__(self, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.attention_norm, self.mlp_norm = norm(HIDDEN), norm(HIDDEN)
        self.attention = Attention(partial(F.scaled_dot_product_attention, is_causal=True), turned=True)
        self.up, self.down = nn.Linear(HIDDEN, 8), nn.Linear(8, HIDDEN)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        return x + self.down(F.gelu(self.up(self.mlp_norm(x)), approximate="tanh"))


class Language(nn.Module):
    """Ids [B, S] to logits [B, S, V]."""

    def __init__(self, vocabulary: int, *, norm: Callable[[int], nn.Module], tied: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, HIDDEN)
        self.blocks = nn.ModuleList([Block(norm)])
        self.norm = norm(HIDDEN)
        self.head = nn.Linear(HIDDEN, vocabulary, bias=False)
        self.tied = tied
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def whole_sequences(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Activations between layers are whole; the embedding's rows and the head's outputs are shared out."""
    plan = {
        "embedding": RowwiseParallel(input_layouts=Replicate()),
        "head": ColwiseParallel(output_layouts=Replicate()),
    }
    for i in range(len(model.blocks)):
        plan |= {f"blocks.{i}.attention.{name}": ColwiseParallel() for name in ("wq", "wk", "wv")}
        plan |= {f"blocks.{i}.attention.wo": RowwiseParallel()}
        plan |= {f"blocks.{i}.up": ColwiseParallel(), f"blocks.{i}.down": RowwiseParallel()}
    return _tied_again(parallelize_module(model, mesh, plan))


def split_sequences(model: nn.Module, mesh: DeviceMesh, *, whole_logits: bool = True) -> nn.Module:
    """The plan of torchtitan: norms and residuals on shards of the sequence; logits gathered, or left as shards."""
    logits = Replicate() if whole_logits else Shard(-1)
    plan: dict[str, Any] = {
        "embedding": RowwiseParallel(input_layouts=Replicate(), output_layouts=Shard(1)),
        "norm": SequenceParallel(),
        "head": ColwiseParallel(input_layouts=Shard(1), output_layouts=logits, use_local_output=whole_logits),
    }
    gather = PrepareModuleInput(input_layouts=(Shard(1),), desired_input_layouts=(Replicate(),))
    for i in range(len(model.blocks)):
        plan |= {f"blocks.{i}.attention_norm": SequenceParallel(), f"blocks.{i}.mlp_norm": SequenceParallel()}
        plan |= {f"blocks.{i}.attention": gather}
        plan |= {f"blocks.{i}.attention.{name}": ColwiseParallel() for name in ("wq", "wk", "wv")}
        plan |= {f"blocks.{i}.attention.wo": RowwiseParallel(output_layouts=Shard(1))}
        plan |= {f"blocks.{i}.up": ColwiseParallel(input_layouts=Shard(1))}
        plan |= {f"blocks.{i}.down": RowwiseParallel(output_layouts=Shard(1))}
    return _tied_again(parallelize_module(model, mesh, plan))


def _tied_again(model: nn.Module) -> nn.Module:
    if model.tied:
        model.head.weight = model.embedding.weight
    return model


def language_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    ids, targets = batch
    return F.cross_entropy(model(ids).flatten(0, 1), targets.flatten())


def loss_on_shards(name: str, step: Step, devices: int) -> Configuration:
    """A loss of logits that are shared out by their vocabulary.

    `loss_parallel` is around all ranks: it changes PyTorch for the whole process, and these ranks are threads.
    """
    shard = partial(split_sequences, whole_logits=False)
    return sharded(f"loss on shards of the vocabulary, {name}", step, shard, devices, around=loss_parallel)


def with_experts(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Every expert's width is shared out; the rows of the batch are gathered before and scattered after, or neither."""
    return parallelize_module(model, mesh, {"experts": TensorParallelForExpert()})


def torch_transformer(model: nn.Module, mesh: DeviceMesh, *, sequence: bool) -> nn.Module:
    # Heads are local tensors: DTensor knows no way to share out the CPU's fused attention.
    return TorchTransformer.parallelize(model, mesh, use_seq_parallel=sequence, local_output_for_attn=True)


def make_ids(vocabulary: int, *, rows: int = 2, length: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randperm(rows * length, generator=generator).remainder(vocabulary).view(rows, length)
    return ids, ids.roll(-1, 1)


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "LayerNorm": nn.LayerNorm,
    "RMSNorm": nn.RMSNorm,
}


def configurations() -> Iterator[Configuration]:
    """Language models under both plans, PyTorch's test transformer, embeddings, experts."""
    settings: dict[str, Any] = {"forward": language_loss, "optimizer": adamw, "steps": 2}
    for (name, norm), tied, devices in itertools.product(NORMS.items(), (False, True), (2, 4)):
        words = f"{name}, {'tied' if tied else 'untied'}"
        build = partial(Language, 12, norm=norm, tied=tied)
        step = Step(model=build, batch=make_ids(12), **settings)
        yield sharded(f"whole sequences, {words}", replace(step, clip_norm=1.0), whole_sequences, devices)
        yield sharded(f"split sequences, {words}", replace(step, clip_norm=1.0), split_sequences, devices)
        if not tied and devices == 2:
            yield loss_on_shards(words, step, devices)
    for sequence, tied, devices in itertools.product((False, True), (False, True), (2, 4)):
        sizes = ModelArgs(n_layers=1, vocab_size=8, max_seq_len=8, dim=8, n_heads=4, dropout_p=0.0, weight_tying=tied)
        step = Step(model=partial(TorchTransformer, sizes), batch=make_ids(8), clip_norm=1.0, **settings)
        words = f"{('whole', 'split')[sequence]} sequences, {('untied', 'tied')[tied]}"
        yield sharded(
            f"PyTorch's test transformer, {words}", step, partial(torch_transformer, sequence=sequence), devices
        )
    generator = torch.Generator().manual_seed(0)
    reals = tuple(torch.randn(2, 4, HIDDEN, generator=generator) for _ in range(2))
    for count, devices in itertools.product((2, 3), (2, 4)):
        build = partial(ExpertLayer, count, HIDDEN, 8)
        step = Step(model=build, batch=reals, loss=F.mse_loss, optimizer=adamw, clip_norm=1.0, steps=2)
        yield sharded(f"{count} experts, each shared out", step, with_experts, devices)
    plans = {
        "rows": RowwiseParallel(input_layouts=Replicate()),
        "columns": ColwiseParallel(output_layouts=Replicate()),
    }
    for (name, style), vocabulary, devices in itertools.product(plans.items(), (12, 7), (2, 3)):
        ids = make_ids(vocabulary)[0]
        step = Step(
            model=partial(nn.Embedding, vocabulary, HIDDEN),
            batch=(ids, torch.randn(2, 8, HIDDEN, generator=generator)),
            loss=F.mse_loss,
            optimizer=adamw,
            steps=2,
        )
        shard = by_plan(lambda style=style: {"": style})
        yield sharded(f"embedding of {vocabulary} by {name}", step, shard, devices)
