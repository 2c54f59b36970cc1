"""`DistributedDataParallel` and its like in a training of the user's own: buckets, accumulation, clipping."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.mutants.collectives import all_reduced
from benchmarks.mutants.configuration import Configuration, trained
from benchmarks.mutants.models.gpt import GPT, GPTSizes, gpt_step, language_loss
from benchmarks.mutants.models.training import load_unwatched
from benchmarks.mutants.models.two_layers import TwoLayers, draw, two_layer_step
from benchmarks.mutants.steps import MORE_OPTIMIZERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from shardproof.proving.step import Step


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """One way of training with DDP.

    Attributes:
        settings: of DDP.
        parts: microbatches, whose gradients are accumulated; all but the last without synchronisation.
        clip: the norm that averaged gradients are clipped to.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    parts: int = 1
    clip: float | None = None


TRAININGS = {
    "plain": Training(),
    "small buckets": Training(settings={"bucket_cap_mb": 0.0001}),
    "gradients as views of buckets": Training(settings={"gradient_as_bucket_view": True}),
    "a static graph": Training(settings={"static_graph": True}),
    "unused parameters looked for": Training(settings={"find_unused_parameters": True}),
    "buffers not broadcast": Training(settings={"broadcast_buffers": False}),
    "two microbatches": Training(parts=2),
    "four microbatches, small buckets": Training(parts=4, settings={"bucket_cap_mb": 0.0001}),
    "clipped": Training(clip=0.1),
    "two microbatches, clipped": Training(parts=2, clip=0.1),
}


def configurations() -> Iterator[Configuration]:
    """Each on two layers and on a decoder, the optimizers in turn."""
    names = list(MORE_OPTIMIZERS)
    for number, (name, training) in enumerate(TRAININGS.items()):
        for devices in (2, 4):
            optimizer = names[(number + devices) % len(names)]
            build = MORE_OPTIMIZERS[optimizer]
            batch = (draw(16, 6), draw(16, 4, seed=1))
            step = two_layer_step(batch=batch, optimizer=build, clip_norm=training.clip)
            words = f"DDP of two layers, {name}, {optimizer}"
            yield trained(words, step, ddp(training, TwoLayers, of_squares, build), devices)
        sizes = GPTSizes(rows=8, positions="rope", tied=bool(number % 2))
        optimizer = names[number % len(names)]
        build = MORE_OPTIMIZERS[optimizer]
        step: Step = gpt_step(sizes, optimizer=build, clip_norm=training.clip)
        candidate = ddp(training, lambda sizes=sizes: GPT(sizes), language_loss, build)
        yield trained(f"DDP of a decoder, {name}, {optimizer}", step, candidate, 2)


def of_squares(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.mse_loss(model(batch[0]), batch[1])


def ddp(
    training: Training,
    model: Callable[[], nn.Module],
    loss_of: Callable[[nn.Module, Any], Tensor],
    build: Callable[..., torch.optim.Optimizer],
) -> Callable[[Any], None]:
    """Equal microbatches of each rank's rows; the mean of their losses is that of the batch."""

    def train(run: Any) -> None:
        wrapped = nn.parallel.DistributedDataParallel(load_unwatched(model(), run), **training.settings)
        inner = wrapped.module
        run.watch(inner)
        forward = Through(wrapped)
        optimizer = build(inner.parameters())
        for batch in run.batches():
            optimizer.zero_grad()
            own = tuple(x.chunk(run.size)[run.rank] for x in batch)
            parts = list(zip(*(x.chunk(training.parts) for x in own), strict=True))
            total = 0.0
            for number, part in enumerate(parts, 1):
                with nullcontext() if number == len(parts) else wrapped.no_sync():
                    loss = loss_of(forward, part) / len(parts)
                    loss.backward()
                total = total + loss.detach()
            run.record_loss(all_reduced(total) / run.size)
            run.record_gradients()
            norm = None
            if training.clip is not None:
                norm = torch.nn.utils.clip_grad_norm_(inner.parameters(), training.clip)
            optimizer.step()
            run.record_update(optimizer, norm=norm)

    return train


class Through:
    """The wrapped model's forward, and the inner model's parts: its loss, say."""

    def __init__(self, wrapped: nn.Module) -> None:
        self.wrapped = wrapped

    def __call__(self, x: Tensor) -> Tensor:
        return self.wrapped(x)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.wrapped.module, name)
