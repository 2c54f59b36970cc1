"""Float masks, counts and guarded divisions: what of them is a real constant is compared as a real number."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.mutants.configuration import Configuration, sharded
from benchmarks.mutants.correct.decoders import DTYPES
from benchmarks.mutants.models.two_layers import TwoLayers, draw, split_two_layers, two_layer_step
from shardproof.proving.step import Step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KEPT = torch.tensor([1.0, 1.0, 0.0, 1.0, 0.0, 0.0])
GROUPS = torch.tensor([0, 0, 2, 2, 2, 0])


def where(kept: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda y, mask: torch.where(kept(mask)[:, None], y, torch.zeros_like(y))


# One function of outputs [6, 4] and a float mask [6], written in one way on one device and in another on the ranks.
TWO_WAYS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "bool(), or above a half": (where(lambda m: m.bool()), where(lambda m: m > 0.5)),
    "above a half, or equal to one": (where(lambda m: m > 0.5), where(lambda m: m == 1)),
    "not zero, or at least a quarter": (where(lambda m: m != 0), where(lambda m: m >= 0.25)),
    "less than one, negated": (where(lambda m: ~(m < 1)), where(lambda m: m > 0)),
    "times the mask, or filled": (
        lambda y, m: y * m[:, None],
        lambda y, m: y.masked_fill(m[:, None] == 0, 0.0),
    ),
    "times the mask, or kept by index": (
        lambda y, m: y * m[:, None],
        lambda y, m: torch.zeros_like(y).index_copy(0, m.nonzero()[:, 0], y[m.bool()]),
    ),
    "a mean by counts, or by kept rows": (
        lambda y, m: (y * m[:, None]).sum(0) / m.sum() + y,
        lambda y, m: y[m > 0].mean(0) + y,
    ),
    "a clamped count": (
        lambda y, m: (y * m[:, None]).sum(0) / m.sum().clamp(min=1) + y,
        lambda y, m: (y * m[:, None]).sum(0) / max(1, int((m > 0).sum())) + y,
    ),
    "the larger of the mask and a half": (
        lambda y, m: y * torch.maximum(m, torch.full_like(m, 0.5))[:, None],
        lambda y, m: y * m.clamp(min=0.5)[:, None],
    ),
}


def sums_of_groups(y: Tensor) -> tuple[Tensor, Tensor]:
    sums = y.new_zeros(3, y.shape[1]).index_add(0, GROUPS, y)
    return sums, torch.bincount(GROUPS, minlength=3)[:, None]  # nobody is in group 1


def guarded(y: Tensor, _mask: Tensor) -> Tensor:
    sums, counts = sums_of_groups(y)
    return y + torch.where(counts > 0, sums / counts, torch.zeros_like(sums)).sum(0)


def clamped(y: Tensor, _mask: Tensor) -> Tensor:
    sums, counts = sums_of_groups(y)
    return y + (sums / counts.clamp(min=1)).sum(0)


def filled(y: Tensor, _mask: Tensor) -> Tensor:
    sums, counts = sums_of_groups(y)
    return y + (sums / counts).masked_fill(counts == 0, 0.0).sum(0)


def of_groups_that_are(y: Tensor, _mask: Tensor) -> Tensor:
    return y + y[GROUPS == 0].mean(0) + y[GROUPS == 2].mean(0)


GUARDED = {"guarded": guarded, "clamped": clamped, "filled": filled, "of groups that are": of_groups_that_are}


def configurations() -> Iterator[Configuration]:
    """Masks in two ways in every dtype; guarded divisions in each way beside each."""
    dtypes = itertools.cycle(DTYPES)
    for (name, (one, other)), devices in itertools.product(TWO_WAYS.items(), (2, 4)):
        dtype = next(dtypes)
        yield sharded(f"a float mask, {name}, {dtype}", in_two_ways(one, other, dtype), split_two_layers, devices)
    for (name, one), (beside, other) in itertools.product(GUARDED.items(), GUARDED.items()):
        dtype = next(dtypes) if name == beside else "float32"
        step = in_two_ways(one, other, dtype)
        yield sharded(f"means of groups, {name}, or {beside}, {dtype}", step, split_two_layers, 2)


def in_two_ways(one: Callable[[Tensor, Tensor], Tensor], other: Callable[[Tensor, Tensor], Tensor], dtype: str) -> Step:
    """The first on one device, the second on the ranks."""

    def forward(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        inputs, targets, mask = batch
        return F.mse_loss((other if model.split else one)(model(inputs), mask), targets)

    batch = tuple(x.to(DTYPES[dtype]) for x in (draw(6, 6), draw(6, 4, seed=1), KEPT))
    settings = two_layer_step()
    return Step(
        model=lambda: TwoLayers().to(DTYPES[dtype]),
        batch=batch,
        forward=forward,
        optimizer=settings.optimizer,
        steps=2,
    )
