"""Tables of constants that ranks compute otherwise than one device: in parts, in another dtype, in another way."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from benchmarks.mutants.configuration import Configuration, sharded
from benchmarks.mutants.models.two_layers import WIDTH, TwoLayers, own_features, split_two_layers, two_layer_step
from benchmarks.mutants.steps import MORE_OPTIMIZERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def own_numbers() -> Tensor:
    """Which of the hidden features this rank has."""
    return own_features(torch.arange(WIDTH))


def slopes(numbers: Tensor) -> Tensor:
    """ALiBi's, by powers."""
    return 2.0 ** (-8.0 * (numbers + 1) / WIDTH)


def frequencies(numbers: Tensor) -> Tensor:
    """Rotary ones, in float32."""
    return 10000.0 ** (-numbers.float() / WIDTH)


def narrow() -> Tensor:
    """Neighbours a few per cent apart, in bfloat16."""
    return (torch.arange(WIDTH) / 7 + 1).bfloat16()


# A table of all the hidden features, and how the ranks have theirs.
TABLES: dict[str, tuple[Callable[[], Tensor], Callable[[], Tensor]]] = {
    "slopes by powers, of their own": (lambda: slopes(torch.arange(WIDTH)), lambda: slopes(own_numbers())),
    "slopes by Python's floats": (
        lambda: slopes(torch.arange(WIDTH)),
        lambda: torch.tensor([2 ** (-8 * (i + 1) / WIDTH) for i in own_numbers().tolist()]),
    ),
    "slopes by multiplying": (
        lambda: slopes(torch.arange(WIDTH)),
        lambda: torch.full((WIDTH,), 2 ** (-8 / WIDTH)).cumprod(0)[own_numbers()],
    ),
    "frequencies of their own": (
        lambda: frequencies(torch.arange(WIDTH)),
        lambda: frequencies(own_numbers()),
    ),
    "frequencies by exp of a log": (
        lambda: frequencies(torch.arange(WIDTH)),
        lambda: torch.exp(-math.log(10000.0) * own_numbers().float() / WIDTH),
    ),
    "sines of float32 angles": (
        lambda: torch.sin(torch.arange(WIDTH) * 0.7),
        lambda: torch.sin(own_numbers() * 0.7),
    ),
    "sines of float64 angles": (
        lambda: torch.sin(torch.arange(WIDTH) * 0.7),
        lambda: torch.sin(own_numbers().double() * 0.7).float(),
    ),
    "a bfloat16 table, cut": (
        narrow,
        lambda: own_features(narrow()),
    ),
    "thirds": (lambda: (torch.arange(WIDTH) + 1) / 3, lambda: (own_numbers() + 1) * (1 / 3)),
    "square roots": (lambda: torch.sqrt(torch.arange(WIDTH) + 2.0), lambda: (own_numbers() + 2.0) ** 0.5),
}


class Scaled(TwoLayers):
    """The hidden features times a table."""

    def __init__(self, whole: Callable[[], Tensor], own: Callable[[], Tensor]) -> None:
        super().__init__()
        self.whole, self.own = whole, own

    def between(self, hidden: Tensor) -> Tensor:
        return hidden * (self.own() if self.split else self.whole()).to(hidden.dtype)


def configurations() -> Iterator[Configuration]:
    """Each table at 2 and 4 ranks."""
    optimizers = itertools.cycle(("AdamW", "SGD", "momentum"))
    for (name, (whole, own)), devices in itertools.product(TABLES.items(), (2, 4)):
        optimizer = next(optimizers)
        step = two_layer_step(lambda whole=whole, own=own: Scaled(whole, own), optimizer=MORE_OPTIMIZERS[optimizer])
        # A last place of float32 apart is no mistake.
        yield sharded(f"constants: {name}, {optimizer}", step, split_two_layers, devices, tolerance=1e-5)
