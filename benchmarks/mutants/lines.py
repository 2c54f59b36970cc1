"""The lines of a sharding that a bug may change: each a function, all right by default.

A bug is `dataclasses.replace(lines, ...)` with one of them changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from benchmarks.mutants.collectives import Copy, Gather, Reduce, ReduceScatter, SumOverReplicas, all_reduced

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.mutants.block import Sizes


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Which rank of how many."""

    rank: int
    size: int


def own_range(length: int, place: Place) -> slice:
    """This rank's part of a dim; the first ranks hold one more where it does not divide."""
    less, more = divmod(length, place.size)
    start = place.rank * less + min(place.rank, more)
    return slice(start, start + less + (place.rank < more))


def cut_qkv(full: Tensor, sizes: Sizes, place: Place) -> Tensor:
    """Rows of [Q; K; V] for this rank's heads; ranks beyond the number of KV heads share them."""
    D = sizes.head_dim
    q, k, v = full.split([sizes.heads * D, sizes.kv_heads * D, sizes.kv_heads * D])
    q = q.unflatten(0, (sizes.heads, D))[own_range(sizes.heads, place)]
    replicas = max(1, place.size // sizes.kv_heads)
    kv = own_range(sizes.kv_heads, Place(rank=place.rank // replicas, size=place.size // replicas))
    k, v = (t.unflatten(0, (sizes.kv_heads, D))[kv] for t in (k, v))
    return torch.cat([t.flatten(0, 1) for t in (q, k, v)])


def cut_gate_up(full: Tensor, place: Place) -> Tensor:
    """Rows of [gate; up]: this rank's of each."""
    gate, up = full.chunk(2)
    own = own_range(len(gate), place)
    return torch.cat([gate[own], up[own]])


def row_linear(x: Tensor, weight: Tensor, bias: Tensor, reduce: Callable[[Tensor], Tensor]) -> Tensor:
    """Partial products summed over ranks, then the bias, once."""
    return reduce(F.linear(x, weight)) + bias


def embed(ids: Tensor, weight: Tensor, own: slice) -> Tensor:
    """Rows of this rank's part of the vocabulary, zero for ids of other ranks."""
    inside = (ids >= own.start) & (ids < own.stop)
    rows = F.embedding((ids - own.start).clamp(0, len(weight) - 1), weight)
    return rows.masked_fill(~inside[..., None], 0.0)


def largest(logits: Tensor) -> Tensor:
    """The largest logit of each token over the whole vocabulary."""
    return all_reduced(logits.detach().amax(-1, keepdim=True), dist.ReduceOp.MAX)


def exponentials(shifted: Tensor) -> Tensor:
    """Sum of exp over the whole vocabulary."""
    return Reduce.apply(shifted.exp().sum(-1))


def smoothing_mean(shifted: Tensor, vocabulary: int) -> Tensor:
    """Mean over the whole vocabulary."""
    return Reduce.apply(shifted.sum(-1)) / vocabulary


def positions(length: int, place: Place) -> Tensor:
    """Of the tokens in this rank's part of the sequence."""
    return torch.arange(length) + place.rank * length


def sequence_dropout(place: Place) -> Callable[[Tensor, float], Tensor]:
    """Of shards of the sequence: each rank draws from a generator of its own, and leaves the common one as it was."""
    own = torch.Generator().manual_seed(place.rank).get_state()

    def drop(x: Tensor, probability: float) -> Tensor:
        nonlocal own
        common = torch.get_rng_state()
        torch.set_rng_state(own)
        dropped = F.dropout(x, probability)
        own = torch.get_rng_state()
        torch.set_rng_state(common)
        return dropped

    return drop


def unchanged(x: Tensor) -> Tensor:
    """The tensor itself, forward and backward."""
    return x


@dataclass(frozen=True, slots=True, kw_only=True)
class Lines:
    """Each is called where its name says; see `sharded.py`."""

    own_rows: Callable[[int, Place], slice] = own_range
    own_columns: Callable[[int, Place], slice] = own_range
    cut_qkv: Callable[[Tensor, Sizes, Place], Tensor] = cut_qkv
    cut_gate_up: Callable[[Tensor, Place], Tensor] = cut_gate_up
    column_input: Callable[[Tensor], Tensor] = Copy.apply
    head_input: Callable[[Tensor], Tensor] = Copy.apply
    row_output: Callable[[Tensor], Tensor] = Reduce.apply
    row_linear: Callable[[Tensor, Tensor, Tensor, Callable[[Tensor], Tensor]], Tensor] = row_linear
    gather_sequence: Callable[[Tensor], Tensor] = Gather.apply
    scatter_sequence: Callable[[Tensor], Tensor] = ReduceScatter.apply
    sequence_norm_weight: Callable[[Tensor], Tensor] = Copy.apply
    sequence_bias: Callable[[Tensor], Tensor] = Copy.apply
    head_norm_weight: Callable[[Tensor], Tensor] = Copy.apply
    replica_weight: Callable[[Tensor, int], Tensor] = SumOverReplicas.apply
    sequence_dropout: Callable[[Place], Callable[[Tensor, float], Tensor]] = sequence_dropout
    positions: Callable[[int, Place], Tensor] = positions
    embed: Callable[[Tensor, Tensor, slice], Tensor] = embed
    largest: Callable[[Tensor], Tensor] = largest
    exponentials: Callable[[Tensor], Tensor] = exponentials
    smoothing_mean: Callable[[Tensor, int], Tensor] = smoothing_mean
    head_weight: Callable[[Tensor], Tensor] = unchanged
