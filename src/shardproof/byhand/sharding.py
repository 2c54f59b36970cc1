"""Which slice of each layer a device holds, and which collectives that needs between the layers (section 3.1.2).

A layer split by `column` shards the rows of W, its output features: it needs its full input and produces a shard of its
output. (These are the columns of W^T, as in `x @ W.T`; Megatron-LM says column-parallel.) A layer split by `row` shards
the columns of W, its input features: it needs a shard of its input and produces a partial sum of its full output.

The collectives between two layers follow from what the first produces and what the second needs:

    produced   needed   forward          backward
    shard      full     all-gather       reduce-scatter    the notebook's: column after column
    shard      shard    -                -                 Megatron's pair: row after column
    partial    full     all-reduce       all-reduce        column after row
    partial    shard    reduce-scatter   all-gather        row after row

After the last layer the loss needs the full output. Each rank computes the part of its gradient that it needs, without
communication.
Source: Shoeybi et al., "Megatron-LM" (arXiv:1909.08053), section 3, for the column and row splits.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import torch

from shardproof.byhand.model import Layer
from shardproof.worlds.communicator import shard_range

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

Split = Literal["column", "row"]
SPLITS: tuple[Split, ...] = ("column", "row")


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSplit:
    """How one layer is split, and whether the next layer, or the loss, needs its output `full` or as a `shard`."""

    in_features: int
    out_features: int
    split: Split
    needed: Literal["full", "shard"]

    @property
    def z_is_sharded(self) -> bool:
        """Whether a rank has a shard of z = x W^T + b, and of b; else every rank has the full z and b.

        A column split makes shards; a row split's partial sums are reduced to what the reader needs.
        """
        return self.split == "column" or self.needed == "shard"


def plan_splits(widths: Sequence[int], splits: Sequence[Split]) -> tuple[LayerSplit, ...]:
    """The split of each layer; a column split reads a full input, a row split a shard, and the loss all of it."""
    readers = (*splits[1:], "loss")
    return tuple(
        LayerSplit(in_features=i, out_features=o, split=split, needed="shard" if reader == "row" else "full")
        for (i, o), split, reader in zip(pairwise(widths), splits, readers, strict=True)
    )


def own_slice(total: int, rank: int, size: int) -> slice:
    """The features, of `total`, that `rank` of `size` holds."""
    return slice(*shard_range(total, rank, size))


def shard_layer(layer: Layer, layer_split: LayerSplit, *, rank: int, size: int) -> Layer:
    """Cut one rank's shard out of a layer, into new memory, as on a real device."""
    own_out = own_slice(layer_split.out_features, rank, size)
    own_in = own_slice(layer_split.in_features, rank, size)
    W = layer.W[own_out] if layer_split.split == "column" else layer.W[:, own_in]
    b = layer.b[own_out] if layer_split.z_is_sharded else layer.b
    return Layer(W=W.clone(memory_format=torch.contiguous_format), b=b.clone())


def shard_layers(
    layers: Sequence[Layer], layer_splits: Sequence[LayerSplit], *, rank: int, size: int
) -> tuple[Layer, ...]:
    """Cut one rank's shard out of every layer."""
    return tuple(
        shard_layer(layer, layer_split, rank=rank, size=size)
        for layer, layer_split in zip(layers, layer_splits, strict=True)
    )


def gather_weight(shards: Sequence[Tensor], layer_split: LayerSplit) -> Tensor:
    """Assemble W [O, I] from every rank's shard."""
    return torch.cat(list(shards), dim=0 if layer_split.split == "column" else 1)


def gather_output(shards: Sequence[Tensor], layer_split: LayerSplit) -> Tensor:
    """Assemble b [O] or z [B, O] from every rank's shard; where it is replicated, take the first rank's."""
    return torch.cat(list(shards), dim=-1) if layer_split.z_is_sharded else shards[0]
