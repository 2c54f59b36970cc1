"""The notebook's random data set and its batches (section 1.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.utils.data import Dataset

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Some samples: x [B, I], and y [B, O], or class indices [B] for cross-entropy."""

    x: Tensor
    y: Tensor


class RandomTensorDataset(Dataset["tuple[Tensor, Tensor]"]):
    """The notebook's data set: `num_samples` pairs of x [in_shape] and y [out_shape], the same in every run.

    Args:
        num_samples: how many.
        in_shape, out_shape: numbers of features.
        seed: of a new generator; the values are those that `torch.manual_seed(seed)` gives.
    """

    def __init__(self, num_samples: int, in_shape: int, out_shape: int, *, seed: int = 12345) -> None:
        drawn = draw_samples(samples=num_samples, in_features=in_shape, out_features=out_shape, seed=seed)
        self.data = list(zip(drawn.x, drawn.y, strict=True))

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, idx: int) -> tuple[Tensor, Tensor]:
        return self.data[idx]


def draw_samples(*, samples: int, in_features: int, out_features: int, seed: int) -> Batch:
    """Draw all samples, each x followed by its y: the values that `RandomTensorDataset` draws.

    The generator is a new one: it gives the values that `torch.manual_seed` would, and the global one is not touched.
    """
    generator = torch.Generator().manual_seed(seed)
    pairs = [
        (torch.randn(in_features, generator=generator), torch.randn(out_features, generator=generator))
        for _ in range(samples)
    ]
    return Batch(x=torch.stack([x for x, _ in pairs]), y=torch.stack([y for _, y in pairs]))


def split_batches(data: Batch, batch_size: int) -> list[Batch]:
    """Batches in order, without shuffling; the last one is smaller where the size does not divide the samples."""
    return [
        Batch(x=x, y=y) for x, y in zip(torch.split(data.x, batch_size), torch.split(data.y, batch_size), strict=True)
    ]
