"""Data parallelism: along a data axis each rank takes rows of the batch of its own, and its loss is of these alone.

The loss of the whole batch is the mean of the ranks' losses, and a gradient the mean of the ranks' gradients; the
sharding (FSDP2, DDP, hooks) has to take that mean. Before it, a rank's gradients are those of its own rows' mean:
larger than their part of the whole batch's by the number of parts. So the one device's gradients of activations are
compared, and cut, as so many times what they are; the loss itself is differentiated as it is, as a program may add
gradients of its own to it (an auxiliary loss that an autograd function injects).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch.distributed as dist
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from shardproof.errors import CannotRunError
from shardproof.proving.running.capture import local_value

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from shardproof.proving.axes import Axes


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSplit:
    """How a batch is split over ranks.

    Attributes:
        count: into how many parts; 1 if it is not split.
        index: which of them this rank takes; None for the one device, which takes all.
        groups: this rank's process group along each data axis.
    """

    count: int = 1
    index: int | None = None
    groups: tuple[dist.ProcessGroup, ...] = ()

    def rows_of(self, batch: Any) -> Any:
        """This rank's rows of every tensor in the batch; what is no tensor with rows goes to every rank.

        Raises:
            CannotRunError: a tensor's rows do not divide evenly, or there is no tensor.
        """
        if self.index is None or self.count == 1:
            return batch
        if not any(_has_rows(x) for x in tree_leaves(batch)):
            raise CannotRunError(
                f"the batch, a {type(batch).__name__}, holds no tensor with rows to split over the data axes: "
                "give tensors in lists, tuples and dicts, or your own training as candidate="
            )
        return tree_map(lambda x: self._rows(x) if _has_rows(x) else x, batch)

    def mean_loss(self, loss: Tensor) -> Tensor:
        """The loss of the whole batch, the same on every rank."""
        if not self.groups:
            return loss
        total = local_value(loss).clone()
        for group in self.groups:
            dist.all_reduce(total, group=group)
        return total / self.count

    @property
    def enlarged(self) -> int:
        """How many times larger the ranks' gradients of activations are than this device's; 1 on a rank."""
        return self.count if self.index is None else 1

    def _rows(self, tensor: Tensor) -> Tensor:
        rows, left = divmod(len(tensor), self.count)
        if left or not rows:
            raise CannotRunError(
                f"a tensor of the batch has shape {tuple(tensor.shape)}; its first dim must divide into {self.count} "
                "parts, one for each rank along the data axes: give such a batch, or your own training as candidate="
            )
        assert self.index is not None
        return tensor.narrow(0, self.index * rows, rows).clone()


def _has_rows(x: Any) -> bool:
    return isinstance(x, Tensor) and x.ndim > 0


def make_split(axes: Axes, mesh: DeviceMesh, rank: int) -> BatchSplit:
    """How a rank's batches are split."""
    groups = tuple(mesh.get_group(name) for name in axes.data if axes.sizes[name] > 1)
    return BatchSplit(count=axes.shares, index=axes.number(rank, axes.data), groups=groups)
