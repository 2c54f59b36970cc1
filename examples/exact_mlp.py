"""A multilayer perceptron: a step of AdamW with clipping, the batch whole and in two halves.

The bug is the usual one of gradient accumulation: the halves' losses are added up and not averaged.
"""

import sys

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from two_ways import Way, compare, in_parts

BATCH = torch.randn(8, 16, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(8)


def build() -> nn.Module:
    """16 numbers to 10 classes."""
    return nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 10))


def loss_of(model: nn.Module, rows: Tensor) -> Tensor:
    """The cross-entropy of a part of the batch, given by its rows."""
    return F.cross_entropy(model(BATCH[rows]), LABELS[rows])


def main() -> int:
    """Exit code 0 if the two ways agree and the bug is seen."""
    rows = torch.arange(8)
    found = compare(
        "MLP",
        Way(build=build, loss=in_parts(loss_of, rows, 1)),
        same={
            "two halves, accumulated": Way(build=build, loss=in_parts(loss_of, rows, 2)),
            "the optimizer's foreach form": Way(build=build, loss=in_parts(loss_of, rows, 1), foreach=True),
        },
        bugs={"two halves, not averaged": Way(build=build, loss=in_parts(loss_of, rows, 2, averaged=False))},
    )
    return 0 if found else 1


if __name__ == "__main__":
    sys.exit(main())
