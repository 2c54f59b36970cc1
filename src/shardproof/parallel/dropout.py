"""Dropout whose mask is a function of a seed, a call count and each element's index in the full tensor.

So the mask is the single-device one, however the tensor is split: a shard gets its part of it, replicas get the same.
No random generator is read or advanced. PyTorch's dropout draws from one generator a rank: with equal seeds, ranks drop
the same elements of different shards; with different seeds, they drop different elements of replicas.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.distributed.tensor import Replicate, Shard

from shardproof.errors import CannotRunError
from shardproof.worlds.communicator import shard_range

if TYPE_CHECKING:
    from shardproof.parallel.axis import Axis

# splitmix64's constants (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014), as signed.
_STEP = 0x9E3779B97F4A7C15 - 2**64
_FIRST = 0xBF58476D1CE4E5B9 - 2**64
_SECOND = 0x94D049BB133111EB - 2**64
_BITS = 24


class PositionalDropout(nn.Module):
    """`nn.Dropout` whose mask does not depend on the split: x mask / (1 - p) forward, dy mask / (1 - p) backward.

    Nothing is communicated. Each call in training uses the next mask; to recompute a call (activation checkpointing),
    set `calls` back.

    Attributes:
        calls: the number of calls in training so far; set it when training is resumed.
    """

    def __init__(
        self,
        p: float,
        seed: int,
        *,
        axis: Axis | None = None,
        placement: Replicate | Shard = Replicate(),  # noqa: B008 - an immutable value
        total: int | None = None,
    ) -> None:
        """See the class.

        Args:
            p: the probability of zeroing an element.
            seed: of this layer; layers with equal seeds drop the same elements.
            axis: the ranks that share the tensor; None on one device.
            placement: of the tensor along the axis.
            total: the full tensor's length along the split dim; None where the ranks' shards are equally long.

        Raises:
            CannotRunError: p is not in [0, 1), or `placement` is a shard and `axis` is missing.
        """
        super().__init__()
        if not 0 <= p < 1:
            raise CannotRunError(f"dropout with p = {p}; give 0 <= p < 1")
        if isinstance(placement, Shard) and axis is None:
            raise CannotRunError(f"dropout of {placement!r} without the axis of the ranks: give it")
        self.p, self.seed, self.axis, self.placement, self.total = p, seed, axis, placement, total
        self.calls = 0

    @classmethod
    def from_dropout(
        cls,
        dropout: nn.Dropout | PositionalDropout,
        axis: Axis,
        *,
        seed: int | None = None,
        placement: Replicate | Shard = Replicate(),  # noqa: B008 - an immutable value
        total: int | None = None,
    ) -> PositionalDropout:
        """The same dropout of a tensor that ranks share.

        Args:
            dropout: PyTorch's, or ours on one device.
            axis: the ranks.
            seed: of the layer; needed for PyTorch's, which has none.
            placement: of the tensor along the axis.
            total: see `__init__`.

        Raises:
            CannotRunError: there is no seed.
        """
        seed = seed if seed is not None else getattr(dropout, "seed", None)
        if seed is None:
            raise CannotRunError("an nn.Dropout draws from a generator that ranks would have to share: give a seed")
        placed = cls(dropout.p, seed, axis=axis, placement=placement, total=total).train(dropout.training)
        placed.calls = getattr(dropout, "calls", 0)
        return placed

    def forward(self, x: Tensor) -> Tensor:
        """Drop elements of x, of any shape: the full tensor, or this rank's shard of it.

        Raises:
            CannotRunError: the shard is not as long as this rank's share of `total`.
        """
        if not self.training or self.p == 0:
            return x
        kept = keep(x.shape, self.p, self.seed, self.calls, start=self._start(x), device=x.device)
        self.calls += 1
        return x.masked_fill(~kept, 0.0) / (1 - self.p)

    def extra_repr(self) -> str:
        """What `print` shows of the layer."""
        return f"p={self.p}, seed={self.seed}, placement={self.placement!r}"

    def _start(self, x: Tensor) -> dict[int, int]:
        """Where this rank's shard begins in the full tensor, by dim."""
        if not isinstance(self.placement, Shard) or self.axis is None:
            return {}
        dim, axis = self.placement.dim % x.ndim, self.axis
        start, stop = shard_range(x.shape[dim] * axis.size if self.total is None else self.total, axis.rank, axis.size)
        if stop - start != x.shape[dim]:
            raise CannotRunError(
                f"dropout of a shard of shape {list(x.shape)}; rank {axis.rank} of {axis.size} holds {stop - start} of "
                f"{self.total} along dim {dim}"
            )
        return {dim: start}


def keep(shape: torch.Size, p: float, seed: int, call: int, *, start: dict[int, int], device: torch.device) -> Tensor:
    """The mask of kept elements, each kept with probability 1 - p (to a multiple of 2^-24).

    It is a hash of seed, call and the element's index in the full tensor.

    Args:
        shape: of this rank's shard.
        p: the probability of dropping an element.
        seed: of the layer.
        call: the number of calls before this one.
        start: where the shard begins in the full tensor, by dim; 0 where not given.
        device: of the mask.

    Returns:
        Booleans of `shape`.
    """
    state = _mix(_mix(torch.tensor(seed, dtype=torch.int64, device=device)) + call)
    for dim, length in enumerate(shape):
        begin = start.get(dim, 0)
        indices = torch.arange(begin, begin + length, device=device)
        state = _mix(state.unsqueeze(-1) + indices)  # [*shape[:dim], length]
    # The top bits, without their sign: a uniform integer below 2^24.
    kept: Tensor = ((state >> (64 - _BITS)) & (2**_BITS - 1)) >= round(p * 2**_BITS)
    return kept


def _mix(x: Tensor) -> Tensor:
    """splitmix64: a step and its finaliser. int64 wraps around; masks make the shifts logical."""
    x = x + _STEP
    x = (x ^ ((x >> 30) & (2**34 - 1))) * _FIRST
    x = (x ^ ((x >> 27) & (2**37 - 1))) * _SECOND
    return x ^ ((x >> 31) & (2**33 - 1))
