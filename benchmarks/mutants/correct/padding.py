"""Rows and columns of zeros that make a size divide: the vocabulary, the width of the MLP."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.mutants.block import Sizes, Transformer
from benchmarks.mutants.configuration import sharded
from benchmarks.mutants.correct.layers import GatedMLP, mlp_step
from benchmarks.mutants.lines import Lines, Place
from benchmarks.mutants.sharded import VocabularyEmbedding, VocabularyLoss, shard_transformer
from benchmarks.mutants.steps import adamw, make_step

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch.distributed.device_mesh import DeviceMesh

    from benchmarks.mutants.configuration import Configuration


class PaddedHead(nn.Module):
    """Logits of this rank's rows that are no padding."""

    def __init__(self, rows: Tensor, kept: int) -> None:
        super().__init__()
        self.weight, self.kept = nn.Parameter(rows.clone()), kept

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(Lines().head_input(x).transpose(0, 1), self.weight[: self.kept])


def pad_vocabulary(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Each rank has as many rows as the first; the last ones are zeros."""
    assert isinstance(model, Transformer)
    sizes, lines, place = model.sizes, Lines(), Place(rank=mesh.get_local_rank(), size=mesh.size())
    each = -(-sizes.vocabulary // place.size)
    embedding, head = (w.detach() for w in (model.embedding.weight, model.head.weight))
    model = shard_transformer(model, place, lines, sequence_parallel=False)
    start = place.rank * each
    own, kept = slice(start, start + each), min(each, sizes.vocabulary - start)
    embedding, head = (F.pad(w[own], (0, 0, 0, each - kept)) for w in (embedding, head))
    model.embedding = VocabularyEmbedding(embedding, own, lines, lines.row_output)
    model.head = PaddedHead(head, kept)
    if sizes.tied:
        model.head.weight = model.embedding.weight
    model.loss = VocabularyLoss(sizes, slice(start, start + kept), lines)
    return model


class PaddedMLP(nn.Module):
    """Column, then row, of a width that was made to divide with zeros: silu(0) * 0 is 0, and so are the gradients."""

    def __init__(self, whole: nn.Module, place: Place) -> None:
        super().__init__()
        width = whole.up.weight.shape[0]
        each = -(-width // place.size)
        own, lack = slice(place.rank * each, (place.rank + 1) * each), each * place.size - width
        self.gate, self.up, self.down = whole.gate, whole.up, whole.down
        for layer in (self.gate, self.up):
            layer.weight = nn.Parameter(F.pad(layer.weight.detach(), (0, 0, 0, lack))[own].clone())
        self.down.weight = nn.Parameter(F.pad(self.down.weight.detach(), (0, lack))[:, own].clone())

    def forward(self, x: Tensor) -> Tensor:
        x = Lines().column_input(x)
        return Lines().row_output(self.down(F.silu(self.gate(x)) * self.up(x)))


def pad_width(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    return PaddedMLP(model, Place(rank=mesh.get_local_rank(), size=mesh.size()))


def configurations() -> Iterator[Configuration]:
    """Padded vocabularies, tied and not, and padded widths."""
    for devices, vocabulary, heads in ((2, 13, 4), (3, 13, 6), (4, 15, 4), (8, 15, 8)):
        for tied in (True, False):
            sizes = Sizes(vocabulary=vocabulary, heads=heads, kv_heads=heads, tied=tied)
            step = make_step(sizes, optimizer=adamw, steps=2)
            yield sharded(f"padded vocabulary, {'tied' if tied else 'untied'}", step, pad_vocabulary, devices)
        yield sharded("padded gated MLP", mlp_step(lambda: GatedMLP(15), clip_norm=None), pad_width, devices)
