"""Every statistic of one block of elements, for any dtype and any values, with temporaries of the block's size.

The streaming kernels settle nearly every block by cheaper tests. What those cannot decide comes here: NaN, infinities,
different signs, elements at the edge of the tolerance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from shardproof.comparison.formats import COMPLEX, FLOAT8, INTEGERS

# The number of elements that a search which may end early looks at together; PyTorch uses one thread for so many.
CHUNK = 1 << 14
_LOWEST = torch.iinfo(torch.int64).min


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """`|actual - expected| <= atol + rtol * |expected|`; `equal_nan`: NaN equals NaN."""

    rtol: float
    atol: float
    equal_nan: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockStatistics:
    """The statistics of one block, by the names of `Comparison`'s; `max_ulp` is not yet limited."""

    close: bool
    maxdiff: float
    max_ulp: int
    nan_actual: int
    nan_expected: int
    inf_actual: int
    inf_expected: int


def examine(actual: torch.Tensor, expected: torch.Tensor, tolerance: Tolerance) -> BlockStatistics:
    """All statistics of two contiguous [n] tensors of one dtype, n > 0."""
    largest = _gaps(actual, expected, tolerance.equal_nan).max()
    maxdiff = _gap_value(largest, actual.dtype)
    exact = maxdiff == 0
    if actual.dtype in INTEGERS:
        close = exact or _integers_are_close(actual, expected, tolerance)
        nan_actual = nan_expected = inf_actual = inf_expected = max_ulp = 0
    else:
        a, e = _widen(actual), _widen(expected)
        close = exact or are_close(a, e, tolerance)
        nan_actual, nan_expected = _count(a.isnan()), _count(e.isnan())
        inf_actual, inf_expected = _count(a.isinf()), _count(e.isinf())
        max_ulp = find_max_ulp(actual, expected)
    return BlockStatistics(
        close=close,
        maxdiff=maxdiff,
        max_ulp=max_ulp,
        nan_actual=nan_actual,
        nan_expected=nan_expected,
        inf_actual=inf_actual,
        inf_expected=inf_expected,
    )


def find_max_ulp(actual: torch.Tensor, expected: torch.Tensor) -> int:
    """The largest ULP distance over the elements of two [n] float tensors that have no NaN on either side."""
    return int(_ulp_steps(actual, expected).max()) - _LOWEST


def are_close(actual: torch.Tensor, expected: torch.Tensor, tolerance: Tolerance) -> bool:
    """Whether all elements of two [n] float tensors are within tolerance; stops at the first chunk that is not."""
    rtol, atol, equal_nan = tolerance.rtol, tolerance.atol, tolerance.equal_nan
    return all(
        bool(torch.isclose(a, e, rtol=rtol, atol=atol, equal_nan=equal_nan).all())
        for a, e in zip(actual.split(CHUNK), expected.split(CHUNK), strict=True)
    )


def locate_worst(actual: torch.Tensor, expected: torch.Tensor, maxdiff: float, *, equal_nan: bool) -> int:
    """The first position at which two contiguous [n] tensors differ by `maxdiff`; NaN is larger than any number."""
    start = 0
    for a, e in zip(actual.split(CHUNK), expected.split(CHUNK), strict=True):
        gaps = _gaps(a, e, equal_nan)
        largest = _gap_value(gaps.max(), actual.dtype)
        if largest == maxdiff or (math.isnan(largest) and math.isnan(maxdiff)):
            return start + int(gaps.argmax())
        start += a.numel()
    raise AssertionError("the largest difference must be in the block that had it")


def count_ulp(actual: torch.Tensor, expected: torch.Tensor) -> int | None:
    """The exact ULP distance of two [1] tensors; None for integers and NaN. Complex: the larger of the two parts'."""
    if actual.dtype in INTEGERS or bool(_widen(actual).isnan()) or bool(_widen(expected).isnan()):
        return None
    return find_max_ulp(actual, expected)


def _count(mask: torch.Tensor) -> int:
    return int(mask.count_nonzero())


def _gaps(actual: torch.Tensor, expected: torch.Tensor, equal_nan: bool) -> torch.Tensor:
    """[n] `|actual - expected|`, 0 where equal. For integers a biased int64, which `_gap_value` reads."""
    if actual.dtype in INTEGERS:
        return _distance(_ordered_integers(actual), _ordered_integers(expected))
    a, e = _widen(actual), _widen(expected)
    equal = a == e
    if equal_nan:
        equal |= a.isnan() & e.isnan()
    return (a - e).abs().masked_fill_(equal, 0)


def _gap_value(gap: torch.Tensor, dtype: torch.dtype) -> float:
    return int(gap) - _LOWEST if dtype in INTEGERS else float(gap)


def _integers_are_close(actual: torch.Tensor, expected: torch.Tensor, tolerance: Tolerance) -> bool:
    """Whether the differences, exact up to 2**53, are within tolerance; torch.isclose lacks unsigned integers."""
    gaps = (_gaps(actual, expected, tolerance.equal_nan) ^ _LOWEST).double()  # without the bias, modulo 2**64
    gaps = torch.where(gaps < 0, gaps + 2.0**64, gaps)
    allowed = tolerance.atol + tolerance.rtol * expected.double().abs()
    return bool((gaps <= allowed).all())


def _distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """`|a - b| + _LOWEST` for int64: |a - b| may need 64 bits, which the bias makes signed, in the right order."""
    return (torch.maximum(a, b) - torch.minimum(a, b)) ^ _LOWEST


def _ordered_integers(values: torch.Tensor) -> torch.Tensor:
    if values.dtype == torch.uint64:
        return values.view(torch.int64) ^ _LOWEST
    return values.to(torch.int64)


def _ulp_steps(actual: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """Biased distances in ULP; 0 plus the bias where either side is NaN."""
    if actual.dtype in COMPLEX:
        actual, expected = torch.view_as_real(actual), torch.view_as_real(expected)
    steps = _distance(_ordered_bits(actual), _ordered_bits(expected))
    return steps.masked_fill_(_widen(actual).isnan() | _widen(expected).isnan(), _LOWEST)


def _ordered_bits(values: torch.Tensor) -> torch.Tensor:
    """An int64 for each float, in the order of the floats and without gaps; both zeros are 0."""
    if values.dtype == torch.float8_e8m0fnu:  # it has no sign bit
        return values.view(torch.uint8).to(torch.int64)
    bits = values.view({1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[values.itemsize])
    wide = bits.to(torch.int64)
    return torch.where(wide < 0, -(wide & torch.iinfo(bits.dtype).max), wide)


def _widen(values: torch.Tensor) -> torch.Tensor:
    """float8 as float32, because PyTorch has no arithmetic on float8."""
    return values.float() if values.dtype in FLOAT8 else values
