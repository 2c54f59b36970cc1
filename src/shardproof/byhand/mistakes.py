"""The step by hand on N devices, or in a pipeline, with one mistake in it: what `walkthrough --html` runs."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING

from shardproof.byhand import pipeline
from shardproof.byhand.both_splits import train_both_ways
from shardproof.byhand.functions import LOSSES
from shardproof.byhand.model import Layer
from shardproof.byhand.n_devices import train
from shardproof.byhand.sharding import own_slice

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from shardproof.byhand.data import Batch
    from shardproof.byhand.n_devices import RankStep
    from shardproof.byhand.pipeline import StageStep
    from shardproof.byhand.settings import Settings
    from shardproof.worlds.communicator import Communicator
    from shardproof.worlds.world import R, Ts, World


class Mistake(StrEnum):
    """Known mistakes of tensor parallelism and of pipelines by hand."""

    NO_REDUCE_SCATTER = "the reduce-scatter is forgotten"
    BIAS_TWICE = "the bias is added twice"
    NOTEBOOK_FACTOR = "dout is (out - y) / B, whatever the output width"
    LAST_MICROBATCH = "the gradients of the last microbatch replace those before"
    MICROBATCH_MEAN = "each microbatch's gradients are those of its own mean"

    @property
    def in_pipeline(self) -> bool:
        """Whether it is one of a pipeline."""
        return self in (Mistake.LAST_MICROBATCH, Mistake.MICROBATCH_MEAN)


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
        del fn  # `train_both_ways`
        if self.mistake.in_pipeline:
            wrong = partial(train_both_ways, stages=partial(train_stages_wrongly, self.mistake))
        else:
            wrong = partial(train_both_ways, shards=partial(train_wrongly, self.mistake))
        return self.inner.run(wrong, *args)  # type: ignore[arg-type]


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


def train_stages_wrongly(
    mistake: Mistake, comm: Communicator, settings: Settings, layers: Sequence[Layer], batches: Sequence[Batch]
) -> list[StageStep]:
    """`train_on_stage` with the mistake."""
    if mistake is Mistake.LAST_MICROBATCH:
        return pipeline.train(comm, settings, layers, batches, accumulate=keep_last)
    return pipeline.train(comm, settings, layers, batches, share=whole_share)


def keep_last(total: tuple[Layer, ...], gradients: tuple[Layer, ...]) -> tuple[Layer, ...]:
    """Overwrite what has been accumulated with the gradients of this microbatch."""
    del total
    return gradients


def whole_share(microbatch: Batch, samples: int) -> float:
    """Weigh a microbatch's own mean as if it were the batch: M microbatches make the gradients M times too large."""
    del microbatch, samples
    return 1.0


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

    def send(self, tensor: Tensor, *, to: int, name: str) -> None:
        self.inner.send(tensor, to=to, name=name)

    def receive(self, into: Tensor, *, source: int, name: str) -> Tensor:
        return self.inner.receive(into, source=source, name=name)
