"""Which slice of each layer a device holds, and what that asks of the devices between the layers (section 3.1.2).

A layer split by `column` shards the rows of W, its output features: it needs its whole input and produces a shard of
its output. (The word is of W^T, as in `x @ W.T`; Megatron-LM says column-parallel.) A layer split by `row` shards the
columns of W, its input features: it needs a shard of its input and produces a partial sum of its whole output.

What must happen between two layers follows from what the first produces and what the second needs:

    produced   needed   forward          backward
    shard      full     all-gather       reduce-scatter    the notebook's: column after column
    shard      shard    -                -                 Megatron's pair: row after column
    partial    full     all-reduce       all-reduce        column after row
    partial    shard    reduce-scatter   all-gather        row after row

After the last layer the loss needs the whole output. Its gradient is computed where it is needed, and costs nothing.
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
class Placement:
    """How one layer is split, and whether whoever reads its output (a layer, or the loss) needs `full` or a `shard`."""

    in_features: int
    out_features: int
    split: Split
    needed: Literal["full", "shard"]

    @property
    def z_is_sharded(self) -> bool:
        """Whether a rank has a shard of z = x W^T + b, and so of b, or (where False) the whole on every rank.

        A column split makes shards; a row split's partial sums are summed to whatever the reader needs.
        """
        return self.split == "column" or self.needed == "shard"


def place_layers(widths: Sequence[int], splits: Sequence[Split]) -> tuple[Placement, ...]:
    """Look one layer ahead: a column split reads a full input, a row split a shard; the loss reads all."""
    readers = (*splits[1:], "loss")
    return tuple(
        Placement(in_features=i, out_features=o, split=split, needed="shard" if reader == "row" else "full")
        for (i, o), split, reader in zip(pairwise(widths), splits, readers, strict=True)
    )


def own_slice(total: int, rank: int, size: int) -> slice:
    """What `rank` of `size` holds of `total` features."""
    return slice(*shard_range(total, rank, size))


def shard_layer(layer: Layer, placement: Placement, *, rank: int, size: int) -> Layer:
    """Cut one rank's shard out of a layer, in memory of its own, as a real device would have it."""
    own_out = own_slice(placement.out_features, rank, size)
    own_in = own_slice(placement.in_features, rank, size)
    W = layer.W[own_out] if placement.split == "column" else layer.W[:, own_in]
    b = layer.b[own_out] if placement.z_is_sharded else layer.b
    return Layer(W=W.clone(memory_format=torch.contiguous_format), b=b.clone())


def shard_layers(
    layers: Sequence[Layer], placements: Sequence[Placement], *, rank: int, size: int
) -> tuple[Layer, ...]:
    """Cut one rank's shard out of every layer."""
    return tuple(
        shard_layer(layer, placement, rank=rank, size=size) for layer, placement in zip(layers, placements, strict=True)
    )


def gather_weight(shards: Sequence[Tensor], placement: Placement) -> Tensor:
    """Put W [O, I] together from every rank's shard."""
    return torch.cat(list(shards), dim=0 if placement.split == "column" else 1)


def gather_output(shards: Sequence[Tensor], placement: Placement) -> Tensor:
    """Put b [O] or z [B, O] together from every rank's shard; where it is replicated, take the first rank's."""
    return torch.cat(list(shards), dim=-1) if placement.z_is_sharded else shards[0]
