"""The eager kernel: all statistics of a comparison, block by block, by the cheapest test that settles each.

Equal bits and a finite sum settle a block in two passes. Otherwise three facts usually do:

- where `actual - expected` is finite, neither side is NaN or infinite;
- a small difference of the bit patterns is the ULP distance itself (see `FloatFormat`);
- a difference of few ULP is within any usual `rtol`; between small numbers it is not the largest.

Other blocks go to `elementwise.examine`. Once one element is out of tolerance, or the ULP distance has reached its
limit, that statistic is settled for all further blocks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from shardproof.comparison.elementwise import CHUNK, are_close, examine, find_max_ulp
from shardproof.comparison.formats import FLOAT8, FLOAT_FORMATS, INTEGERS, FloatFormat

if TYPE_CHECKING:
    from shardproof.comparison.blocks import Block, Blocks
    from shardproof.comparison.elementwise import Tolerance
    from shardproof.comparison.tally import Tally

# On the CPU two inputs and two buffers of this size stay in the third-level cache, and the cost of a Python call is
# small beside them; measured best of 256 KiB to 4 MiB. On other devices a block must only outlast a kernel's launch.
_CPU_BLOCK_BYTES = 1 << 21
_DEVICE_BLOCK_BYTES = 1 << 23
# `examine` makes up to ten int64 temporaries a block.
_PLAIN_BLOCK_ELEMENTS = 1 << 16
_MOST_TRUST = 4
_SAME_SIZE = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def block_bytes(dtype: torch.dtype, device: torch.device) -> int:
    """How many bytes of a tensor of this dtype and device to take at a time."""
    if dtype not in FLOAT_FORMATS:
        return _PLAIN_BLOCK_ELEMENTS * dtype.itemsize
    return _CPU_BLOCK_BYTES if device.type == "cpu" else _DEVICE_BLOCK_BYTES


def stream(reader: Blocks, tolerance: Tolerance, tally: Tally) -> None:
    """Add every block of the reader to the tally."""
    kind = FLOAT_FORMATS.get(reader.dtype)
    if kind is None:
        for block in reader.blocks():
            actual, expected = reader.read(block)
            if not (_bits_equal(actual, expected) and _is_plain(expected)):
                tally.add(examine(actual, expected, tolerance), block)
        return
    room = min(reader.size, reader.count)
    scratch = tuple(torch.empty(room, dtype=reader.dtype, device=reader.device) for _ in range(2))
    scan = _FloatScan(
        kind=kind,
        tolerance=tolerance,
        tally=tally,
        gaps=scratch[0],
        steps=scratch[1],
        few_ulp=kind.few_ulp(tolerance.rtol, tolerance.atol),
    )
    for block in reader.blocks():
        scan.take(*reader.read(block), block)


@dataclass(slots=True, kw_only=True)
class _FloatScan:
    """The cheap tests, for a float dtype with sign and magnitude. `gaps` and `steps` are scratch of one block each.

    `trust` rises when `_fits_within_maxdiff` succeeds and falls when it fails; at 0 the test is no longer made.
    Consecutive blocks tend to be alike: after one that differs, the test for equality is skipped.
    """

    kind: FloatFormat
    tolerance: Tolerance
    tally: Tally
    gaps: torch.Tensor
    steps: torch.Tensor
    few_ulp: int
    trust: int = _MOST_TRUST
    likely_equal: bool = True

    def take(self, actual: torch.Tensor, expected: torch.Tensor, block: Block) -> None:
        if self.likely_equal and _bits_equal(actual, expected):
            settled = math.isfinite(expected.sum().item()) or self._count_special(expected)
        else:
            settled = self._settle(actual, expected, block)
        if not settled:
            self.likely_equal = True
            self.tally.add(examine(actual, expected, self.tolerance), block)

    def _count_special(self, expected: torch.Tensor) -> bool:
        """Count NaN and infinities of a block with equal bits; return False where it has NaN and NaN equals nothing."""
        nan = int(expected.isnan().count_nonzero())
        if nan and not self.tolerance.equal_nan:
            return False
        inf = int(expected.isinf().count_nonzero())
        self.tally.nan_actual += nan
        self.tally.nan_expected += nan
        self.tally.inf_actual += inf
        self.tally.inf_expected += inf
        return True

    def _settle(self, actual: torch.Tensor, expected: torch.Tensor, block: Block) -> bool:
        """Try the cheap tests; return whether they sufficed. If not, nothing was added to the tally."""
        steps = None if self.tally.ulp_settled else self._subtract_bits(actual, expected)
        if steps is not None and self.trust and self._fits_within_maxdiff(expected, steps):
            self.tally.add_ulp(steps)
            self.likely_equal = steps == 0
            return True
        gaps = torch.sub(actual, expected, out=self.gaps[: actual.numel()]).abs_()
        # The patterns of non-negative numbers are in the order of the numbers; NaN's are above infinity's.
        top = gaps.view(self.kind.integer).amax()
        if top.item() >= self.kind.infinity:
            return False
        maxdiff = float(top.view(gaps.dtype))
        if steps is not None and steps >= self.kind.ulp_limit:
            steps = self._find_max_steps(actual, expected)
        if self.tally.close and not self._is_close(gaps, expected, maxdiff, steps):
            self.tally.close = are_close(actual, expected, self.tolerance)
        self.tally.add_difference(maxdiff, block)
        self.likely_equal = maxdiff == 0
        if steps is not None:
            self.tally.add_ulp(steps)
        return True

    def _fits_within_maxdiff(self, expected: torch.Tensor, steps: int) -> bool:
        """Whether no difference of at most `steps` ULP can exceed `maxdiff` or the tolerance in this block."""
        if steps >= self.kind.ulp_limit or (self.tally.close and steps > self.few_ulp):
            return False
        magnitudes = torch.abs(expected, out=self.gaps[: expected.numel()])
        low, high = torch.aminmax(magnitudes.view(self.kind.integer))
        highest = int(high) + steps  # the largest magnitude on either side
        # The pattern of a NaN is close to that of a zero or subnormal of the other sign.
        fits = int(low) >= self.kind.ulp_limit and highest < self.kind.infinity
        if fits:
            binade = highest >> self.kind.mantissa
            bound = math.ldexp(steps * self.kind.tiny, binade - 1 - self.kind.mantissa)
            fits = not bound > self.tally.maxdiff
        self.trust = min(self.trust + 1, _MOST_TRUST) if fits else self.trust - 1
        return fits

    def _subtract_bits(self, actual: torch.Tensor, expected: torch.Tensor) -> int:
        """The largest difference of bit patterns: the ULP distance if below the limit and nothing is NaN."""
        integer = self.kind.integer
        steps = self.steps.view(integer)[: actual.numel()]
        low, high = torch.aminmax(torch.sub(actual.view(integer), expected.view(integer), out=steps))
        return max(-int(low), int(high))

    def _find_max_steps(self, actual: torch.Tensor, expected: torch.Tensor) -> int:
        """The largest ULP distance, at most the limit, where some patterns are far apart.

        It must be fast for 0.0 and -0.0. `self.steps` still holds the differences of the patterns.
        """
        limit = self.kind.ulp_limit
        steps = self.steps.view(self.kind.integer)[: actual.numel()]
        near = 0
        for chunk, a, e in zip(*(t.split(CHUNK) for t in (steps, actual, expected)), strict=True):
            apart = (chunk >= limit).logical_or_(chunk <= -limit)
            if bool(apart.any()):
                near = max(near, find_max_ulp(a[apart], e[apart]))
                if near >= limit:
                    return limit
                chunk.masked_fill_(apart, 0)
        return max(near, int(steps.abs_().amax()))

    def _is_close(self, gaps: torch.Tensor, expected: torch.Tensor, maxdiff: float, steps: int | None) -> bool:
        """Whether all elements are certainly within tolerance, with a margin for rounding here. Overwrites `gaps`."""
        rtol, atol = self.tolerance.rtol, self.tolerance.atol
        margin = 1 - 8 * 2.0**-self.kind.mantissa
        if maxdiff <= atol * margin:
            return True
        if steps is not None and steps <= self.few_ulp:
            return True
        magnitude = torch.abs(expected, out=self.steps[: gaps.numel()])
        excess = torch.sub(gaps, magnitude, alpha=rtol * margin, out=gaps).amax()
        return bool(excess.item() <= atol * margin)


def _bits_equal(actual: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether all bits are equal. Compares 8-byte words where alignment allows, which is twice as fast."""
    words = actual.nbytes % 8 == 0 and actual.data_ptr() % 8 == 0 and expected.data_ptr() % 8 == 0
    kind = torch.int64 if words else _SAME_SIZE[min(actual.itemsize, 8)]
    return torch.equal(actual.view(kind), expected.view(kind))


def _is_plain(values: torch.Tensor) -> bool:
    """Whether there is certainly no NaN and no infinity. False also where a sum of finite numbers overflows."""
    if values.dtype in INTEGERS:
        return True
    total = values.float().sum() if values.dtype in FLOAT8 else values.sum()
    return bool(total.isfinite())
