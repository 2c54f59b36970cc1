"""Collectives that are started and waited for: in layers, in hooks, in buckets, and PyTorch's functional ones."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import _functional_collectives as functional
from torch.nn.utils import parameters_to_vector

from benchmarks.mutants.collectives import all_reduced
from benchmarks.mutants.configuration import Configuration, sharded, trained
from benchmarks.mutants.models.training import average_loss, load, own_rows
from benchmarks.mutants.models.two_layers import TwoLayers, draw, split_two_layers, two_layer_step
from benchmarks.mutants.steps import MORE_OPTIMIZERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class WaitedFor(torch.autograd.Function):
    """Asynchronous all-reduce, waited for at once, forward; identity backward."""

    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        x = x.clone()
        dist.all_reduce(x, async_op=True).wait()
        return x

    @staticmethod
    def backward(_ctx: Any, grad: Tensor) -> Tensor:
        return grad


class Overlapped(torch.autograd.Function):
    """As `WaitedFor`, with work in between that does not touch the tensor."""

    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        other, x = x * 2, x.clone()
        work = dist.all_reduce(x, async_op=True)
        zero = (other - other).detach()
        work.wait()
        return x + zero

    @staticmethod
    def backward(_ctx: Any, grad: Tensor) -> Tensor:
        return grad


class Gathered(torch.autograd.Function):
    """An all-gather, asynchronous, whose parts are summed; identity backward."""

    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        work = dist.all_gather(parts, x.contiguous(), async_op=True)
        work.wait()
        return torch.stack(parts).sum(0)

    @staticmethod
    def backward(_ctx: Any, grad: Tensor) -> Tensor:
        return grad


class Functional(torch.autograd.Function):
    """PyTorch's functional all-reduce, which waits when its result is used; identity backward."""

    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        return functional.wait_tensor(functional.all_reduce(x.contiguous(), "sum", dist.group.WORLD))

    @staticmethod
    def backward(_ctx: Any, grad: Tensor) -> Tensor:
        return grad


LAYERS = {"waited for": WaitedFor, "overlapped": Overlapped, "gathered": Gathered, "functional": Functional}


def in_hooks(model: nn.Module, size: int) -> Callable[[], None]:
    """Each gradient is reduced as it comes; all are waited for."""
    started: list[Any] = []

    def start(parameter: nn.Parameter) -> None:
        parameter.grad.div_(size)
        started.append(dist.all_reduce(parameter.grad, async_op=True))

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(start)

    def finish() -> None:
        while started:
            started.pop().wait()

    return finish


def in_two_buckets(model: nn.Module, size: int) -> Callable[[], None]:
    """Two flat buckets, both started, then waited for and copied back."""

    def finish() -> None:
        parameters = list(model.parameters())
        halves = [parameters[:2], parameters[2:]]
        buckets = [parameters_to_vector([p.grad for p in half]) / size for half in halves]
        for work in [dist.all_reduce(bucket, async_op=True) for bucket in buckets]:
            work.wait()
        for half, bucket in zip(halves, buckets, strict=True):
            for parameter, part in zip(half, bucket.split([p.numel() for p in half]), strict=True):
                parameter.grad.copy_(part.view_as(parameter))

    return finish


GRADIENTS = {"in hooks": in_hooks, "in two buckets": in_two_buckets}


def configurations() -> Iterator[Configuration]:
    """Layers at 2 and 4 ranks; gradients at 2 and 3."""
    optimizers = itertools.cycle(("AdamW", "SGD", "momentum"))
    for (name, reduce), devices in itertools.product(LAYERS.items(), (2, 4)):
        optimizer = next(optimizers)
        step = two_layer_step(optimizer=MORE_OPTIMIZERS[optimizer])
        yield sharded(f"an all-reduce, {name}, {optimizer}", step, _leaving_by(reduce.apply), devices)
    for (name, reduction), devices in itertools.product(GRADIENTS.items(), (2, 3)):
        optimizer = next(optimizers)
        step = two_layer_step(batch=(draw(12, 6), draw(12, 4, seed=1)), optimizer=MORE_OPTIMIZERS[optimizer])
        yield trained(f"asynchronous averages {name}, {optimizer}", step, _train(reduction, optimizer), devices)


def _leaving_by(reduce: Callable[[Tensor], Tensor]) -> Callable[..., nn.Module]:
    def parallelize(model: nn.Module, _mesh: object) -> nn.Module:
        model = split_two_layers(model)
        model.leave = reduce
        return model

    return parallelize


def _train(reduction: Callable[[nn.Module, int], Callable[[], None]], optimizer: str) -> Callable[[Any], None]:
    def train(run: Any) -> None:
        model = load(TwoLayers(), run)
        finish = reduction(model, run.size)
        stepper = MORE_OPTIMIZERS[optimizer](model.parameters())
        for batch in run.batches():
            stepper.zero_grad()
            loss = average_loss(model, own_rows(run, batch))
            run.record_loss(all_reduced(loss) / run.size)
            loss.backward()
            finish()
            run.record_gradients()
            stepper.step()
            run.record_update(stepper)

    return train
