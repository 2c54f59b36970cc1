"""The notebook's random data set and its batches (section 1.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Some samples: x [B, I], and y [B, O], or class indices [B] for cross-entropy."""

    x: Tensor
    y: Tensor


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
