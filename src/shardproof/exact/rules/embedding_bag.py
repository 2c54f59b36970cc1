"""EmbeddingBag: sums and means of rows of a table, bag by bag."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

from shardproof.exact.rules.registry import formula

if TYPE_CHECKING:
    from torch import Tensor

    from shardproof.exact.algebra.residue import Arithmetic, Residue

_MEAN, _MAX = 1, 2  # torch.nn.functional.embedding_bag
_NO_MAXIMUM: Final = "the largest rows of a bag, chosen element by element; modes 'sum' and 'mean' are"


def _bags(indices: Tensor, offsets: Tensor, *, last: bool) -> tuple[Tensor, int]:
    """The bag of each index, and how many bags there are."""
    starts = offsets[:-1] if last else offsets
    positions = torch.arange(indices.numel(), dtype=starts.dtype, device=indices.device)
    return torch.searchsorted(starts.contiguous(), positions, right=True) - 1, starts.numel()


def _added_up(m: Arithmetic, rows: Residue, places: Tensor, count: int) -> Residue:
    """Rows of `count` sums, row i added to the one that `places[i]` says."""
    total = rows.tensor.new_zeros((count, rows.shape[1])).index_add_(0, places, rows.tensor)
    most = int(torch.bincount(places, minlength=1).max()) if places.numel() else 1
    return m.residue(m.field.reduce_(total), rows.degree.sum_of(most))


def _shares(m: Arithmetic, bag_of: Tensor, kept: Tensor, sizes: Tensor, mode: int) -> Residue:
    """What each index's row is multiplied by: 1, of a mean 1 over its bag's size; 0 for padding."""
    weights = m.residue(kept.to(torch.float64).unsqueeze(1))
    if mode != _MEAN:
        return weights
    return weights / m.residue(sizes.clamp(min=1)[bag_of].to(torch.float64).unsqueeze(1))


@formula("_embedding_bag.default", "_embedding_bag_forward_only.default")
def embedding_bag(
    m: Arithmetic,
    table: Residue,
    indices: Tensor,
    offsets: Tensor,
    scale_by_frequency: bool = False,
    mode: int = 0,
    sparse: bool = False,
    sample_weights: Residue | None = None,
    last: bool = False,
    padding: int = -1,
) -> tuple[Residue, Tensor, Tensor, Tensor]:
    """The sum or mean of each bag's rows, the bag of each index, the bags' sizes, and the sizes once more."""
    del scale_by_frequency, sparse  # of the gradient
    if mode == _MAX:
        raise NotImplementedError(_NO_MAXIMUM)
    bag_of, count = _bags(indices, offsets, last=last)
    kept = indices != padding
    sizes = torch.zeros(count, dtype=torch.int64, device=indices.device).index_add_(0, bag_of, kept.long())
    rows = table.moved(lambda t: t[indices]) * _shares(m, bag_of, kept, sizes, mode)
    if sample_weights is not None:
        rows = rows * sample_weights.moved(lambda t: t.unsqueeze(1))
    return _added_up(m, rows, bag_of, count), bag_of, sizes, sizes.clone()


@formula("_embedding_bag_backward.default")
def embedding_bag_backward(
    m: Arithmetic,
    grad: Residue,
    indices: Tensor,
    offsets: Tensor,
    bag_of: Tensor,
    sizes: Tensor,
    largest: Tensor,
    rows: int,
    by_frequency: bool,
    mode: int,
    sparse: bool,
    sample_weights: Residue | None,
    padding: int = -1,
) -> Residue:
    """The gradient of the table: each index's share of its bag's gradient, added to its row."""
    del offsets, largest
    if sparse or by_frequency:
        raise NotImplementedError("a sparse gradient, or one scaled by how often an index occurs; dense ones are")
    found = grad.moved(lambda t: t[bag_of]) * _shares(m, bag_of, indices != padding, sizes, mode)
    if sample_weights is not None:
        found = found * sample_weights.moved(lambda t: t.unsqueeze(1))
    return _added_up(m, found, indices, rows)


@formula("_embedding_bag_per_sample_weights_backward.default")
def sample_weights_backward(
    m: Arithmetic,
    grad: Residue,
    table: Residue,
    indices: Tensor,
    offsets: Tensor,
    bag_of: Tensor,
    mode: int,
    padding: int = -1,
) -> Residue:
    """The gradient of each index's weight: its row times its bag's gradient."""
    del offsets, mode
    products = table.moved(lambda t: t[indices]) * grad.moved(lambda t: t[bag_of])
    return products.sum(1) * m.residue((indices != padding).to(torch.float64))
