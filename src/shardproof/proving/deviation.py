"""Deviation: how far a tensor of a run that rounds is from that of the same run in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

# A score masked with -1e9 or finfo.min: it is rounded by more than any score beside it.
_MASKED = -1e8
_MASKED_ALIKE = 1e-6  # relative
_LEAST = -1e30  # below it is finfo.min, of the dtype of each run
# Elements of a block: its difference in float64 stays in a core's cache.
_BLOCK = 2**16


@dataclass(frozen=True, slots=True, kw_only=True)
class Deviation:
    """How far a tensor is from the one in float64.

    Attributes:
        difference: the largest of an element; NaN where one is NaN.
        scale: the largest magnitude in float64.
        epsilon: of the tensor's dtype; 0 of integers.
    """

    difference: float
    scale: float
    epsilon: float


def measure_deviation(actual: Tensor, expected: Tensor, *, masks: bool) -> Deviation | None:
    """How far a tensor is from another, both plain; None where they are of two shapes.

    Args:
        actual: of the run that rounds.
        expected: in float64.
        masks: it may hold masks, which are no results: see `without_masks`.
    """
    if actual.shape != expected.shape:
        return None
    if masks:
        actual, expected = without_masks(actual, expected)
    return Deviation(
        difference=largest_difference(actual, expected),
        scale=largest(expected),
        epsilon=torch.finfo(actual.dtype).eps if actual.is_floating_point() else 0.0,
    )


def without_masks(actual: Tensor, expected: Tensor) -> tuple[Tensor, Tensor]:
    """Two tensors with zeros for infinities that are the same in both, and for scores that both mask."""
    if not expected.numel() or not expected.is_floating_point():
        return actual, expected
    least, most = expected.aminmax()  # no mask in memory where there is no such element
    if float(least) > _MASKED and math.isfinite(float(most)):  # false where there is NaN
        return actual, expected
    alike = (actual.double() - expected.double()).abs() <= -_MASKED_ALIKE * expected.double()
    alike &= expected.isfinite()
    least = (torch.maximum(actual, expected) < _LEAST) & (actual.isfinite() == expected.isfinite())
    same = (actual == expected) & expected.isinf() | alike & (expected < _MASKED) | least
    if not bool(same.any()):
        return actual, expected
    return actual.masked_fill(same, 0), expected.masked_fill(same, 0)


def largest_difference(actual: Tensor, expected: Tensor) -> float:
    """The largest magnitude of actual - expected in float64; NaN where an element is."""
    if actual.numel() <= _BLOCK:
        return largest(actual.double() - expected)
    pairs = zip(actual.reshape(-1).split(_BLOCK), expected.reshape(-1).split(_BLOCK), strict=True)
    return worst(largest(one.double() - other) for one, other in pairs)


def largest(tensor: Tensor) -> float:
    """The largest magnitude; 0 where there are no elements, NaN where one is NaN."""
    if not tensor.numel():
        return 0.0
    least, most = tensor.aminmax()  # one pass, and no tensor of magnitudes
    return max(abs(float(least)), abs(float(most)))  # both are NaN where one element is


def worst(numbers: Iterable[float]) -> float:
    """The largest; NaN if there is one, which `max` can overlook."""
    found = list(numbers)
    return math.nan if any(math.isnan(one) for one in found) else max(found)
