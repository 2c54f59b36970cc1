"""Rounding: whether a difference in float64 lies within the reference's own measured noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from shardproof.proving.records import OF_PARAMETERS

if TYPE_CHECKING:
    from shardproof.proving.judging.alignment import Aligned, Alignment
    from shardproof.proving.records import Key

# float32 has 2**29 times the epsilon of float64: what rounding does to the reference in float32, scaled down.
FROM_FLOAT32 = 2.0**-29
# How many times its own noise a candidate may be away: another order of summation errs another way, not much farther.
ALLOWED = 64.0
# Where float32 met no rounding at all (small integers), float64 still may: in epsilons of the largest element.
_FLOOR_EPSILONS = 64.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounding:
    """A tensor's difference in float64.

    Attributes:
        maxdiff: the largest between a rank's element and the reference's.
        noise: the reference's own rounding noise in float64, measured in float32 and scaled.
        agrees: `maxdiff` is at most `ALLOWED` times the noise; false where a value is not finite.
    """

    maxdiff: float
    noise: float
    agrees: bool


def measure_rounding(key: Key, candidate: Alignment, float32: Alignment) -> Rounding | None:
    """Compare a tensor of the native float64 runs; None where they do not have it side by side.

    Args:
        key: which.
        candidate: the candidate's ranks in float64 beside the reference in float64.
        float32: the reference in float32 beside the reference in float64.
    """
    if key.phase in OF_PARAMETERS and key.name.partition("/")[0] not in float32.layout.places:
        return None  # a parameter that one device has not
    aligned, own = candidate.of(key), float32.of(key)
    if aligned is None or aligned.fault or own is None or own.fault:
        return None
    if any(one.actual.shape != one.expected.shape for one in aligned.held.values()):
        return None
    maxdiff, largest = _largest_difference(aligned)
    noise = _largest_difference(own)[0] * FROM_FLOAT32
    noise = max(noise, _FLOOR_EPSILONS * torch.finfo(torch.float64).eps * largest / ALLOWED)
    return Rounding(maxdiff=maxdiff, noise=noise, agrees=maxdiff <= ALLOWED * noise)


def _largest_difference(aligned: Aligned) -> tuple[float, float]:
    """The largest difference and the largest expected magnitude over all ranks; NaN agrees with nothing."""
    pairs = [(one.actual.double(), one.expected.double()) for one in aligned.held.values() if one.expected.numel()]
    if not pairs:
        return 0.0, 0.0
    return (
        float(torch.stack([(actual - expected).abs().max() for actual, expected in pairs]).max()),
        float(torch.stack([expected.abs().max() for _, expected in pairs]).max()),
    )
