"""Gradients of microbatches accumulated over DDP, FSDP2 and HSDP, which synchronise the last; and a bug's lines."""

from __future__ import annotations

import warnings
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from benchmarks.mutants.collectives import all_reduced
from benchmarks.mutants.configuration import Configuration
from benchmarks.mutants.models.training import load_unwatched, own_rows
from benchmarks.mutants.models.two_layers import draw
from benchmarks.mutants.models.zero import CLIP_NORM, Odd
from benchmarks.mutants.steps import sgd
from shardproof.proving.step import Step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from torch.distributed.device_mesh import DeviceMesh

    from shardproof.proving.running.candidate import Run

    Optimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]

Way = Literal["DDP", "FSDP2", "HSDP"]


def is_last(number: int, parts: int) -> bool:
    """Whether a microbatch is the last one."""
    return number == parts - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class AccumulationLines:
    """The lines that a bug changes.

    Attributes:
        sync: whether gradients are reduced after the microbatch of this number, of so many.
        replicate: whether HSDP then sums them over its copies too.
        factor: what gradients are divided by where a factor is set, of so many ranks.
        between: what is done to the parameters after each microbatch but the last.
    """

    sync: Callable[[int, int], bool] = is_last
    replicate: Callable[[int, int], bool] = is_last
    factor: Callable[[int], float] = lambda _ranks: 1.0
    between: Callable[[Sequence[nn.Parameter]], None] = lambda _parameters: None


@dataclass(frozen=True, slots=True, kw_only=True)
class Accumulation:
    """How a small model is trained on microbatches.

    Attributes:
        way: of averaging gradients over ranks.
        parts: microbatches of a rank's rows.
        every: whether FSDP2 reduces after every microbatch, as it does unless it is told otherwise.
        factor: whether the loss is a share of the whole batch's, and gradients are divided by a factor that is set
            (FSDP2): by `set_gradient_divide_factor`, or by its older name.
        dtype: of the model.
        reduce_dtype: of FSDP2's reductions; None: the model's.
        clipped: by the norm of all gradients.
        optimizer: of the parameters.
        lines: that a bug changes.
    """

    way: Way = "FSDP2"
    parts: int = 2
    every: bool = False
    factor: Literal["", "gradient", "reduce-scatter"] = ""
    dtype: torch.dtype = torch.float32
    reduce_dtype: torch.dtype | None = None
    clipped: bool = False
    optimizer: Optimizer = sgd
    lines: AccumulationLines = field(default_factory=AccumulationLines)

    def make_step(self) -> Step:
        """The step on one device."""
        return Step(
            model=lambda: Odd().to(self.dtype),
            batch=(draw(16, 5).to(self.dtype), draw(16, 3, seed=1).to(self.dtype)),
            loss=F.mse_loss,
            optimizer=self.optimizer,
            clip_norm=CLIP_NORM if self.clipped else None,
            steps=2,
        )

    def train(self, run: Run) -> None:
        """The training of one rank."""
        model = self._wrap(load_unwatched(Odd(), run), run.mesh)
        run.watch(model.module if isinstance(model, DistributedDataParallel) else model)
        parameters = list(model.parameters())
        optimizer = self.optimizer(parameters)
        divided = self.parts * (run.size if self.factor else 1)
        for batch in run.batches():
            optimizer.zero_grad()
            losses = []
            for number, rows in enumerate(zip(*(x.chunk(self.parts) for x in own_rows(run, batch)), strict=True)):
                with ExitStack() as inside:
                    self._synchronise(model, number, inside)
                    loss = F.mse_loss(model(rows[0]), rows[1]) / divided
                    loss.backward()
                losses.append(loss.detach())
                if not is_last(number, self.parts):
                    self.lines.between(parameters)
            total = all_reduced(torch.stack(losses).sum())
            run.record_loss(total if self.factor else total / run.size)
            run.record_gradients()
            norm = torch.nn.utils.clip_grad_norm_(parameters, CLIP_NORM) if self.clipped else None
            optimizer.step()
            run.record_update(optimizer, norm=norm.full_tensor() if isinstance(norm, DTensor) else norm)

    def _wrap(self, model: nn.Module, mesh: DeviceMesh) -> Any:
        if self.way == "DDP":
            return DistributedDataParallel(model)
        policy = MixedPrecisionPolicy(reduce_dtype=self.reduce_dtype)
        for module in (*(one for one in model.modules() if isinstance(one, nn.Linear)), model):
            fully_shard(module, mesh=mesh, mp_policy=policy)
        if self.factor:
            for module in model.modules():
                if isinstance(module, FSDPModule):
                    factor = self.lines.factor(mesh.size())
                    if self.factor == "gradient":
                        module.set_gradient_divide_factor(factor)
                    else:
                        with warnings.catch_warnings():  # it is told to use the other name
                            warnings.simplefilter("ignore", DeprecationWarning)
                            module.set_reduce_scatter_divide_factor(factor)
        return model

    def _synchronise(self, model: Any, number: int, inside: ExitStack) -> None:
        sync = self.every or self.lines.sync(number, self.parts)
        if self.way == "DDP":
            if not sync:
                inside.enter_context(model.no_sync())
            return
        model.set_is_last_backward(is_last(number, self.parts))
        if self.way == "HSDP" and self.every:  # shards are summed each time, copies at the end
            model.set_requires_all_reduce(self.lines.replicate(number, self.parts))
        else:
            model.set_requires_gradient_sync(sync)


def accumulated(name: str, one: Accumulation, mesh: Mapping[str, int], **settings: Any) -> Configuration:
    """A small model trained on microbatches, under its name and the mesh."""
    name = f"{name}, {' x '.join(f'{axis} {size}' for axis, size in mesh.items())}"
    return Configuration(name=name, make_step=one.make_step, candidate=one.train, mesh=mesh, **settings)
