"""Embeddings split over an axis: by the vocabulary, or by the features.

The ids are replicated. Split by the vocabulary, each rank looks up the ids whose rows it holds, and the lookups are
summed; split by the features, each rank looks up its part of every row. Source: Shoeybi et al., "Megatron-LM"
(arXiv:1909.08053), section 3, for the first.
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
    """Rows of this rank's part of the vocabulary: sum over ranks forward, nothing but each rank's own rows backward.

    Made by `from_embedding`; `weight` [own rows, h] keeps its name. An id that is in no rank's vocabulary raises
    IndexError, as on one device.

    With `Replicate()` for the output one all-reduce forward; with `Shard(dim)`, the sequence's, one reduce-scatter
    forward and one all-gather backward. `traffic` has that as data.
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
            embedding: the whole one, on every rank alike.
            axis: the ranks.
            multiple: pad the vocabulary with zero rows, so that each rank's part is a multiple of this; None for
                unpadded parts that may differ by one row.
            output: `Replicate()`: the whole on every rank; `Shard(dim)`: each rank keeps its part of that dim.

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
            [*ids.shape, h], or this rank's part of it.
        """
        inside = (ids >= self.start) & (ids < self.stop)
        # Other ranks' ids look up row 0, which is then blotted out; ids of no rank look up row -1, which raises.
        outside = (ids < 0) | (ids >= self.num_embeddings)
        local = (ids - self.start).masked_fill(~inside, 0).masked_fill(outside, -1)
        rows = F.embedding(local, self.weight, padding_idx=self._local_padding())  # [..., h]
        rows = rows.masked_fill(~inside.unsqueeze(-1), 0.0)
        if isinstance(self.output, Shard):
            return sum_partials_take_shard(rows, self.axis, dim=self.output.dim)
        return sum_partials(rows, self.axis)

    def extra_repr(self) -> str:
        """What `print(model)` shows."""
        return f"rows {self.start} to {self.stop} of {self.num_embeddings}, {self.embedding_dim}"

    def _local_padding(self) -> int | None:
        """The row that gets no gradient, if this rank holds it."""
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
            embedding: the whole one, on every rank alike.
            axis: the ranks.
            output: `Replicate()`: all features on every rank; `Shard(-1)`: each rank its own.

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
        """Look up rows: ids of any shape to [*ids.shape, h], or this rank's part of h."""
        rows = F.embedding(ids, self.weight, padding_idx=self.padding_idx)
        if self.output == Replicate():
            return gather_shards(rows, self.axis, dim=-1, total=self.embedding_dim)
        return rows

    def extra_repr(self) -> str:
        """What `print(model)` shows."""
        return f"{self.num_embeddings}, {self.weight.shape[1]} features of {self.embedding_dim}"


def split_vocabulary(shape: Sequence[int], axis: Axis, *, multiple: int | None) -> Sharding:
    """How a tensor of shape [V, ...] is split by its rows, for an embedding and for the head alike.

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
    """Refuse what a split embedding would do otherwise than a whole one.

    Raises:
        CannotRunError: it has `max_norm`, `scale_grad_by_freq` or `sparse`.
    """
    given = [name for name in ("max_norm", "scale_grad_by_freq", "sparse") if getattr(embedding, name)]
    if given:
        raise CannotRunError(f"an embedding with {' and '.join(given)} cannot be split: build it without")
