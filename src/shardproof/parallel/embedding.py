"""Embeddings split over an axis: by the vocabulary, or by the features.

The ids are replicated. With a split vocabulary, each rank looks up the ids whose rows it holds, and the lookups are
summed (Shoeybi et al., "Megatron-LM", arXiv:1909.08053, section 3). With split features, each rank looks up its part of
every row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import nn
from torch.distributed.tensor import Replicate, Shard

from shardproof.errors import CannotRunError
from shardproof.parallel.collectives import gather_shards, sum_partials, sum_partials_take_shard
from shardproof.parallel.sharding import Sharding, cut_parameter, split, split_padded
from shardproof.parallel.traffic import Traffic

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from shardproof.parallel.axis import Axis


class VocabularyParallelEmbedding(nn.Module):
    """This rank's rows of the vocabulary: lookups summed over the ranks forward, gradients of its own rows backward.

    Made by `from_embedding`; `weight` [own rows, h] keeps its name. An id outside the vocabulary raises IndexError, as
    on one device.

    Output `Replicate()`: one all-reduce forward. Output `Shard(dim)`, along the sequence: one reduce-scatter forward
    and one all-gather backward.
    """

    def __init__(
        self,
        weight: nn.Parameter,
        sharding: Sharding,
        axis: Axis,
        *,
        padding_idx: int | None,
        output: Replicate | Shard,
    ) -> None:
        super().__init__()
        self.weight, self.axis, self.padding_idx, self.output = weight, axis, padding_idx, output
        self.num_embeddings, self.embedding_dim = sharding.shape
        self.start, self.stop = own_vocabulary(sharding)

    @classmethod
    def from_embedding(
        cls,
        embedding: nn.Embedding,
        axis: Axis,
        *,
        multiple: int | None = None,
        output: Replicate | Shard = Replicate(),  # noqa: B008 - an immutable value
    ) -> VocabularyParallelEmbedding:
        """Split an ordinary embedding.

        Args:
            embedding: the full one, the same on every rank.
            axis: the ranks.
            multiple: pad the vocabulary with zero rows, so that each rank's number of rows is a multiple of this.
                None: no padding; the ranks' numbers may differ by one.
            output: `Replicate()`: every rank gets the full output. `Shard(dim)`: each keeps its shard along that dim.

        Raises:
            CannotRunError: the embedding has an option that cannot be split, or there are fewer rows than ranks.
        """
        check_options(embedding)
        sharding = split_vocabulary(embedding.weight.shape, axis, multiple=multiple)
        weight = cut_parameter(embedding.weight, sharding)
        return cls(weight, sharding, axis, padding_idx=embedding.padding_idx, output=output)

    @property
    def traffic(self) -> Traffic:
        """The collectives of one forward and backward."""
        if isinstance(self.output, Shard):
            return Traffic(forward=("reduce_scatter",), backward=("all_gather",))
        return Traffic(forward=("all_reduce",))

    def forward(self, ids: Tensor) -> Tensor:
        """Look up rows.

        Args:
            ids: integers of any shape, the same on all ranks.

        Returns:
            [*ids.shape, h], or this rank's shard of it.
        """
        inside = (ids >= self.start) & (ids < self.stop)
        # Ids of other ranks look up row 0, which is then set to zero; ids outside the vocabulary look up -1 and raise.
        outside = (ids < 0) | (ids >= self.num_embeddings)
        local = (ids - self.start).masked_fill(~inside, 0).masked_fill(outside, -1)
        rows = F.embedding(local, self.weight, padding_idx=self._local_padding())  # [..., h]
        rows = rows.masked_fill(~inside.unsqueeze(-1), 0.0)
        if isinstance(self.output, Shard):
            return sum_partials_take_shard(rows, self.axis, dim=self.output.dim)
        return sum_partials(rows, self.axis)

    def extra_repr(self) -> str:
        """What `print` shows of the layer."""
        return f"rows {self.start} to {self.stop} of {self.num_embeddings}, {self.embedding_dim}"

    def _local_padding(self) -> int | None:
        """The index of the padding row on this rank; None where another rank holds it."""
        if self.padding_idx is None or not self.start <= self.padding_idx < self.stop:
            return None
        return self.padding_idx - self.start


class FeatureParallelEmbedding(nn.Module):
    """This rank's features of every row: all-gather forward, own shard backward; neither if the output stays split.

    Made by `from_embedding`; `weight` [V, own features] keeps its name.
    """

    def __init__(
        self,
        weight: nn.Parameter,
        sharding: Sharding,
        axis: Axis,
        *,
        padding_idx: int | None,
        output: Replicate | Shard,
    ) -> None:
        super().__init__()
        self.weight, self.axis, self.padding_idx, self.output = weight, axis, padding_idx, output
        self.num_embeddings, self.embedding_dim = sharding.shape

    @classmethod
    def from_embedding(
        cls,
        embedding: nn.Embedding,
        axis: Axis,
        *,
        output: Replicate | Shard = Replicate(),  # noqa: B008 - an immutable value
    ) -> FeatureParallelEmbedding:
        """Split an ordinary embedding.

        Args:
            embedding: the full one, the same on every rank.
            axis: the ranks.
            output: `Replicate()`: every rank gets all features. `Shard(-1)`: each keeps its own.

        Raises:
            CannotRunError: the embedding has an option that cannot be split, or the output is neither of these.
        """
        check_options(embedding)
        if output not in (Replicate(), Shard(-1)):
            raise CannotRunError(f"FeatureParallelEmbedding with output {output!r}: give Replicate() or Shard(-1)")
        sharding = split(embedding.weight.shape, 1, rank=axis.rank, size=axis.size)
        weight = cut_parameter(embedding.weight, sharding)
        return cls(weight, sharding, axis, padding_idx=embedding.padding_idx, output=output)

    @property
    def traffic(self) -> Traffic:
        """The collectives of one forward and backward."""
        return Traffic(forward=("all_gather",) if self.output == Replicate() else ())

    def forward(self, ids: Tensor) -> Tensor:
        """Look up rows: ids of any shape to [*ids.shape, h], or this rank's features of it."""
        rows = F.embedding(ids, self.weight, padding_idx=self.padding_idx)
        if self.output == Replicate():
            return gather_shards(rows, self.axis, dim=-1, total=self.embedding_dim)
        return rows

    def extra_repr(self) -> str:
        """What `print` shows of the layer."""
        return f"{self.num_embeddings}, {self.weight.shape[1]} features of {self.embedding_dim}"


def split_vocabulary(shape: Sequence[int], axis: Axis, *, multiple: int | None) -> Sharding:
    """How a tensor of shape [V, ...] is split by its rows: an embedding's or a head's weight, a head's bias.

    Raises:
        CannotRunError: a rank would hold no row of the vocabulary.
    """
    if multiple is None:
        sharding = split(shape, 0, rank=axis.rank, size=axis.size)
    else:
        sharding = split_padded(shape, 0, multiple=multiple, rank=axis.rank, size=axis.size)
    if not all(sharding.pieces):
        padded = "" if multiple is None else f" padded to multiples of {multiple}"
        raise CannotRunError(
            f"a vocabulary of {shape[0]}{padded} on {axis.size} ranks leaves a rank without any of it: use "
            f"fewer ranks{'' if multiple is None else ' or a smaller multiple'}"
        )
    return sharding


def own_vocabulary(sharding: Sharding) -> tuple[int, int]:
    """The half-open interval of ids whose rows this rank holds."""
    (piece,) = sharding.pieces[sharding.rank]
    return piece.full, piece.full + piece.length


def check_options(embedding: nn.Embedding) -> None:
    """Refuse options that a split embedding does not support.

    Raises:
        CannotRunError: the embedding has `max_norm`, `scale_grad_by_freq` or `sparse`.
    """
    given = [name for name in ("max_norm", "scale_grad_by_freq", "sparse") if getattr(embedding, name)]
    if given:
        raise CannotRunError(f"an embedding with {' and '.join(given)} cannot be split: build it without")
