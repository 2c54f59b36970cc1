"""The step by hand on N devices with one mistake in it: what `walkthrough --html` runs when it breaks the step."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING

from shardproof.byhand.functions import LOSSES
from shardproof.byhand.model import Layer
from shardproof.byhand.n_devices import train
from shardproof.byhand.sharding import own_slice

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from shardproof.byhand.data import Batch
    from shardproof.byhand.n_devices import RankStep
    from shardproof.byhand.settings import Settings
    from shardproof.worlds.communicator import Communicator
    from shardproof.worlds.world import R, Ts, World


class Mistake(StrEnum):
    """Known mistakes of tensor parallelism by hand."""

    NO_REDUCE_SCATTER = "the reduce-scatter is forgotten"
    BIAS_TWICE = "the bias is added twice"
    NOTEBOOK_FACTOR = "dout is (out - y) / B, whatever the output width"


@dataclass(frozen=True, slots=True, kw_only=True)
class MistakenWorld:
    """A world whose ranks train with a mistake, whichever training they are asked for; see `World`."""

    inner: World
    mistake: Mistake

    @property
    def size(self) -> int:
        return self.inner.size

    @property
    def speaks(self) -> bool:
        return self.inner.speaks

    def run(self, fn: Callable[[Communicator, *Ts], R], *args: *Ts) -> list[R]:
        del fn  # `train_on_rank`: its arguments are those of `train_wrongly`
        return self.inner.run(partial(train_wrongly, self.mistake), *args)  # type: ignore[arg-type]


def train_wrongly(
    mistake: Mistake, comm: Communicator, settings: Settings, layers: Sequence[Layer], batches: Sequence[Batch]
) -> list[RankStep]:
    """`train_on_rank` with the mistake."""
    right = LOSSES[settings.loss].backward
    if mistake is Mistake.NO_REDUCE_SCATTER:
        return train(WithoutSum(inner=comm), settings, layers, batches, loss_backward=right)
    if mistake is Mistake.BIAS_TWICE:
        return train(comm, settings, layers, batches, loss_backward=right, in_forward=double_bias)
    return train(comm, settings, layers, batches, loss_backward=notebook_backward)


def notebook_backward(out: Tensor, y: Tensor, columns: slice = slice(None)) -> Tensor:
    """The notebook's gradient of the mean squared error, (out - y) / B: right at the output width 2 alone."""
    return (out[:, columns] - y[:, columns]) / out.shape[0]


def double_bias(layer: Layer) -> Layer:
    """A layer whose forward is x W^T + b + b."""
    return Layer(W=layer.W, b=layer.b + layer.b)


@dataclass(frozen=True, slots=True, kw_only=True)
class WithoutSum:
    """A communicator that forgets to sum: each rank keeps its shard of its own partial values."""

    inner: Communicator

    @property
    def rank(self) -> int:
        return self.inner.rank

    @property
    def size(self) -> int:
        return self.inner.size

    def all_gather(self, shard: Tensor, *, dim: int, total: int, name: str) -> Tensor:
        return self.inner.all_gather(shard, dim=dim, total=total, name=name)

    def reduce_scatter(self, partial: Tensor, *, dim: int, name: str) -> Tensor:
        del name
        own = own_slice(partial.shape[dim], self.rank, self.size)
        return partial.narrow(dim, own.start, own.stop - own.start).clone()

    def all_reduce(self, partial: Tensor, *, name: str) -> Tensor:
        return self.inner.all_reduce(partial, name=name)
