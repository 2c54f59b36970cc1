"""Causal grouped-query attention, on one device and split over ranks by heads.

A rank has H / N of the query heads and K / N of the KV heads. Where there are fewer KV heads than ranks, it has a
replica of one KV head, whose gradient is summed over the replicas. Between the projections nothing is communicated, and
the code is the same on one device and on many.
Sources: Shoeybi et al., "Megatron-LM" (arXiv:1909.08053), section 3; Ainslie et al., "GQA" (arXiv:2305.13245).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.tensor import Replicate, Shard

from shardproof.errors import CannotRunError
from shardproof.parallel.heads import head_sections, kv_replica_axis
from shardproof.parallel.linear import ColumnLinear, RowLinear
from shardproof.parallel.mlp import add_traffic
from shardproof.parallel.norms import GRADIENT_SUM, sum_gradients_of_parameters
from shardproof.parallel.sharding import Section

if TYPE_CHECKING:
    from shardproof.parallel.axis import Axis
    from shardproof.parallel.traffic import Traffic


@dataclass(frozen=True, slots=True, kw_only=True)
class Heads:
    """The numbers of heads: of the full attention, or of one rank.

    Attributes:
        queries: H, the number of query heads.
        kv: K, the number of KV heads, which divides H; H / K queries use each.
        width: D, the features of a head.
    """

    queries: int
    kv: int
    width: int

    def __post_init__(self) -> None:
        if min(self.queries, self.kv, self.width) < 1 or self.queries % self.kv:
            raise CannotRunError(
                f"{self.queries} query heads on {self.kv} KV heads; the KV heads must divide the queries"
            )

    @property
    def widths(self) -> tuple[int, int, int]:
        """The widths of the fused projection's parts: queries, keys, values."""
        return self.queries * self.width, self.kv * self.width, self.kv * self.width


class Attention(nn.Module):
    """Causal grouped-query attention with [Q; K; V] one projection; `from_attention` splits it by heads.

    Attributes:
        qkv: [h to (H + 2 K) D], all queries, then all keys, then all values; or this rank's shard of each.
        out: [H D to h].
        q_norm: a norm of each query head, with one weight for all of them; or None.
        k_norm: the same for the key heads.
        heads: of the full attention; after a split, this rank's.
    """

    def __init__(
        self,
        heads: Heads,
        qkv: nn.Linear | ColumnLinear,
        out: nn.Linear | RowLinear,
        *,
        q_norm: nn.Module | None = None,
        k_norm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.heads, self.qkv, self.out, self.q_norm, self.k_norm = heads, qkv, out, q_norm, k_norm
        self.traffics: tuple[tuple[Axis, Traffic], ...] = ()

    @classmethod
    def of_sizes(cls, hidden: int, heads: Heads, *, bias: bool = False, norms: bool = False) -> Attention:
        """An attention on one device, initialised as `nn.Linear` is."""
        qkv, out = nn.Linear(hidden, sum(heads.widths), bias), nn.Linear(heads.widths[0], hidden, bias)
        q_norm, k_norm = (nn.RMSNorm(heads.width) if norms else None for _ in range(2))
        return cls(heads, qkv, out, q_norm=q_norm, k_norm=k_norm)

    @classmethod
    def from_attention(
        cls,
        attention: Attention,
        axis: Axis,
        *,
        placement: Replicate | Shard = Replicate(),  # noqa: B008 - an immutable value
        length: int | None = None,
        kv_replicas: Axis | None = None,
    ) -> Attention:
        """This rank's heads of an attention on one device, which is left unchanged.

        Args:
            attention: the full one, the same on every rank.
            axis: the ranks.
            placement: of input and output: `Replicate()`, or `Shard(1)`, along the sequence.
            length: of the full sequence, where the ranks' shards of it are not equally long.
            kv_replicas: the ranks with a replica of this rank's KV head, as `kv_replica_axis` returns them, so that
                layers share one process group. None: this layer makes its own where it needs one.

        Raises:
            CannotRunError: the ranks do not divide the query heads; or they neither divide the KV heads nor are divided
                by them.
        """
        assert isinstance(attention.qkv, nn.Linear)
        assert isinstance(attention.out, nn.Linear)
        whole, size = attention.heads, axis.size
        sections = head_sections(whole.widths, whole.width, size, name="attention")
        qkv = ColumnLinear.from_linear(attention.qkv, axis, input=placement, length=length, sections=sections)
        queries = [Section(length=whole.widths[0], unit=whole.width)]
        out = RowLinear.from_linear(attention.out, axis, output=placement, sections=queries)
        local = Heads(queries=whole.queries // size, kv=max(whole.kv // size, 1), width=whole.width)
        q_norm, k_norm = copy.deepcopy((attention.q_norm, attention.k_norm))
        split = cls(local, qkv, out, q_norm=q_norm, k_norm=k_norm).train(attention.training)
        split.traffics = ((axis, add_traffic(qkv, out)),)
        norms = [name for name in ("q_norm", "k_norm") if getattr(split, name) is not None]
        if norms:
            sum_gradients_of_parameters(split, axis, names=norms)
            split.traffics = (*split.traffics, (axis, GRADIENT_SUM))
        kv_replicas = kv_replicas or kv_replica_axis(axis, whole.kv)
        if kv_replicas is not None:
            sum_gradients_of_parameters(qkv, kv_replicas, start=local.widths[0])
            split.traffics = (*split.traffics, (kv_replicas, GRADIENT_SUM))
        return split

    def forward(self, x: Tensor) -> Tensor:
        """From x [B, S, h] to [B, S, h]; both full, or both this rank's shard of the sequence."""
        parts = self.qkv(x).split(self.heads.widths, dim=-1)
        q, k, v = (part.unflatten(-1, (-1, self.heads.width)) for part in parts)  # [B, S, heads, D] each
        q = q if self.q_norm is None else self.q_norm(q)
        k = k if self.k_norm is None else self.k_norm(k)
        groups = self.heads.queries // self.heads.kv
        k, v = (part.repeat_interleave(groups, dim=2) for part in (k, v))  # [B, S, H, D]
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))  # [B, H, S, D]
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out
