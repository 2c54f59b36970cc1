"""Samples as heat maps: captions for the page, and the cells as compact text that its script draws."""

from __future__ import annotations

import base64
from math import prod
from typing import TYPE_CHECKING

import torch

from shardproof.report.page.description import HeatMap

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from shardproof.proving.evidence import Sample


def describe_maps(tensor: str, samples: Sequence[Sample]) -> tuple[tuple[HeatMap, ...], dict[str, dict[str, str]]]:
    """The heat maps of one tensor, and their cells by the key of each.

    Args:
        tensor: its id in the page.
        samples: of each rank.
    """
    maps, values = [], {}
    for sample in samples:
        key = f"{tensor}r{sample.rank}"
        maps.append(_describe(key, sample))
        values[key] = {
            "expected": _as_text(sample.expected.float()),
            # Not the actual value: the difference of two float32 numbers would be their rounding.
            "difference": _as_text((sample.actual - sample.expected).float()),
            "differs": _as_text(sample.differs.to(torch.uint8)),
        }
    return tuple(maps), values


def _describe(key: str, sample: Sample) -> HeatMap:
    rows, columns = sample.differs.shape
    differing, cells = int(sample.differs.sum()), sample.differs.numel()
    largest = (sample.actual - sample.expected).abs().nan_to_num(nan=torch.inf).max()
    shape = " x ".join(map(str, sample.shape)) or "a single number"
    elements = prod(sample.shape)
    blocks = "" if elements <= cells else f", a cell for each block of about {elements / cells:.0f} elements"
    return HeatMap(
        key=key,
        rank=sample.rank,
        rows=rows,
        columns=columns,
        caption=f"Rank {sample.rank}, shape {shape}{blocks}",
        words=f"On rank {sample.rank} {differing} of {cells} cells differ; the largest difference is {largest:.2g}.",
    )


def _as_text(tensor: Tensor) -> str:
    """Base64 of the elements in order, little-endian."""
    array = tensor.contiguous().numpy()
    return base64.b64encode(array.astype(array.dtype.newbyteorder("<")).tobytes()).decode()
