"""The batches of all steps as a dataset of rows, for a library whose loader splits, gathers and reads ahead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from shardproof.errors import CannotRunError

if TYPE_CHECKING:
    from collections.abc import Callable


class BatchRows(torch.utils.data.Dataset[Any]):
    """Row after row of the first step's batch, then of the second's: `dataset[i]` is a batch's structure with one row.

    Args:
        take: `take(number)` gives the batch of a step.
        rows: of each batch.
        steps: how many batches there are.
    """

    def __init__(self, take: Callable[[int], Any], *, rows: int, steps: int) -> None:
        self._take, self._rows, self._steps = take, rows, steps

    def __len__(self) -> int:
        return self._rows * self._steps

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < len(self):  # an IndexError ends Python's own iteration
            raise IndexError(f"row {index} of {len(self)}")
        number, row = divmod(index, self._rows)
        return tree_map(lambda x: x[row] if isinstance(x, Tensor) else x, self._take(number))


def count_rows(batch: Any) -> int:
    """The rows of a batch, along dim 0 of its tensors.

    Raises:
        CannotRunError: it has no tensor, or tensors with different numbers of rows.
    """
    counts = {x.shape[0] if x.ndim else None for x in tree_leaves(batch) if isinstance(x, Tensor)}
    if len(counts) != 1 or None in counts:
        found = ", ".join(str([*x.shape]) for x in tree_leaves(batch) if isinstance(x, Tensor)) or "no tensor"
        raise CannotRunError(
            f"run.dataset() needs a batch of tensors with as many rows each; the batch has {found}: use run.batches()"
        )
    (rows,) = counts
    assert rows is not None
    return rows
