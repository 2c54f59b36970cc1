"""ZeRO by hand, stages 1 and 2: flat parameters with padding, of which each rank updates a part; and a bug's lines."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from benchmarks.mutants.collectives import all_reduced, gathered, reduce_scattered
from benchmarks.mutants.configuration import Configuration
from benchmarks.mutants.lines import unchanged
from benchmarks.mutants.models.training import load_unwatched, own_rows
from benchmarks.mutants.models.two_layers import draw
from benchmarks.mutants.steps import adamw
from shardproof.proving.step import Step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from shardproof.proving.running.candidate import Run

    Optimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]

CLIP_NORM = 0.1


class Odd(nn.Module):
    """Two linear layers and a norm, of 77 parameters: neither 2 nor 4 ranks divide them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(5, 7), nn.LayerNorm(7), nn.Linear(7, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(torch.tanh(self.first(x))))


def own_span(length: int, rank: int, ranks: int) -> slice:
    """A rank's part of a buffer that is padded to a multiple of the ranks."""
    each = -(-length // ranks)
    return slice(rank * each, (rank + 1) * each)


def norm_of_parts(part: Tensor) -> Tensor:
    """Of the whole gradient: the ranks' squares summed."""
    return all_reduced(part.square().sum()).sqrt()


@dataclass(frozen=True, slots=True, kw_only=True)
class ZeroLines:
    """The lines that a bug changes.

    Attributes:
        span: a rank's part, of a buffer of so many elements.
        average: of a gradient that was summed over so many ranks.
        after: what is done to a rank's part of the gradient before the update; the arguments are it and the ranks.
        norm: of all gradients, from a rank's part.
        collect: the ranks' updated parts, as one buffer; from a rank's part, the buffer before, and where the part is.
        accumulate: the buffer of gradients of a microbatch, to what was accumulated before (None: nothing).
        sent: the buffer as it goes into the reduction.
    """

    span: Callable[[int, int, int], slice] = own_span
    average: Callable[[Tensor, int], Tensor] = lambda gradient, ranks: gradient / ranks
    after: Callable[[Tensor, int], Tensor] = lambda part, _ranks: part
    norm: Callable[[Tensor], Tensor] = norm_of_parts
    collect: Callable[[Tensor, Tensor, slice], Tensor] = lambda part, _before, _span: gathered(part)
    accumulate: Callable[[Tensor, Tensor | None], Tensor] = lambda new, before: new if before is None else before + new
    sent: Callable[[Tensor], Tensor] = unchanged


@dataclass(frozen=True, slots=True, kw_only=True)
class Zero:
    """How three layers are trained by parts of flat parameters.

    Attributes:
        stage: 1, gradients are all-reduced and kept; 2, reduce-scattered: the model's own are given up.
        buffers: how many flat parameters there are, each of some of the model's in their order (buckets).
        parts: microbatches of a rank's rows, whose gradients are accumulated.
        clipped: by the norm of all gradients.
        optimizer: of each rank's parts.
        lines: that a bug changes.
    """

    stage: Literal[1, 2] = 2
    buffers: int = 1
    parts: int = 1
    clipped: bool = False
    optimizer: Optimizer = adamw
    lines: ZeroLines = field(default_factory=ZeroLines)

    def make_step(self) -> Step:
        """The step on one device."""
        return Step(
            model=Odd,
            batch=(draw(16, 5), draw(16, 3, seed=1)),
            loss=F.mse_loss,
            optimizer=self.optimizer,
            clip_norm=CLIP_NORM if self.clipped else None,
            steps=2,
        )

    def train(self, run: Run) -> None:
        """The training of one rank."""
        model, ranks = load_unwatched(Odd(), run), run.size
        every = list(model.parameters())
        each = -(-len(every) // self.buffers)
        buckets = [_Bucket(every[i : i + each], self.lines, run) for i in range(0, len(every), each)]
        own = nn.ParameterDict({f"part{i}": bucket.part for i, bucket in enumerate(buckets)})
        run.watch(model, own)
        optimizer = self.optimizer(own.values())
        for batch in run.batches():
            optimizer.zero_grad()
            losses, kept = [], [None for _ in buckets]
            for rows in zip(*(x.chunk(self.parts) for x in own_rows(run, batch)), strict=True):
                model.zero_grad()
                loss = F.mse_loss(model(rows[0]), rows[1]) / self.parts
                loss.backward()
                losses.append(loss.detach())
                kept = [self.lines.accumulate(b.gradients(), k) for b, k in zip(buckets, kept, strict=True)]
            run.record_loss(all_reduced(torch.stack(losses).sum()) / ranks)
            for bucket, gradients in zip(buckets, kept, strict=True):
                assert gradients is not None
                bucket.reduce(gradients, keep=self.stage == 1)
            run.record_gradients()
            norm = None
            if self.clipped:
                norm = self.lines.norm(torch.cat([bucket.part.grad for bucket in buckets]))
                torch.nn.utils.clip_grads_with_norm_(own.values(), CLIP_NORM, norm)
            optimizer.step()
            for bucket in buckets:
                bucket.collect()
            run.record_update(optimizer, norm=norm)


class _Bucket:
    """One flat parameter: some of the model's, and the part of them that this rank updates."""

    def __init__(self, parameters: Sequence[nn.Parameter], lines: ZeroLines, run: Any) -> None:
        self.parameters, self.lines, self.ranks = list(parameters), lines, run.size
        self.length = sum(p.numel() for p in parameters)
        self.span = partial(lines.span, self.length, run.rank, run.size)
        self.part = nn.Parameter(self._padded(parameters_to_vector(parameters).detach())[self.span()].clone())

    def _padded(self, flat: Tensor) -> Tensor:
        return F.pad(flat, (0, -self.length % self.ranks))

    def gradients(self) -> Tensor:
        return self._padded(parameters_to_vector([p.grad for p in self.parameters]))

    def reduce(self, gradients: Tensor, *, keep: bool) -> None:
        """Over the ranks; the whole stays with the model's parameters, or each rank keeps its part alone."""
        dtype, gradients = gradients.dtype, self.lines.sent(gradients)
        if keep:
            whole = self.lines.average(all_reduced(gradients).to(dtype), self.ranks)
            sizes = [p.numel() for p in self.parameters]
            for parameter, new in zip(self.parameters, whole[: self.length].split(sizes), strict=True):
                parameter.grad = new.view_as(parameter)
            part = whole[self.span()]
        else:
            part = self.lines.average(reduce_scattered(gradients).to(dtype), self.ranks)
            for parameter in self.parameters:
                parameter.grad = None
        self.part.grad = self.lines.after(part, self.ranks)

    def collect(self) -> None:
        """What all ranks have updated goes back into the model."""
        before = self._padded(parameters_to_vector(self.parameters).detach())
        whole = self.lines.collect(self.part.detach(), before, self.span())
        vector_to_parameters(whole[: self.length], self.parameters)


def by_parts(name: str, zero: Zero, ranks: int) -> Configuration:
    """Three layers trained by parts of flat parameters, under its name and the number of ranks."""
    return Configuration(name=f"{name}, dp {ranks}", make_step=zero.make_step, candidate=zero.train, mesh={"dp": ranks})
