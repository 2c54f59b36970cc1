"""A number for each index along a dim of a full tensor, from all values at that index: equal for equal values.

They show what moved along a dim without holding the tensors: 8 bytes for each row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from shardproof.checkpoints.full import read_blocks

if TYPE_CHECKING:
    from shardproof.checkpoints.full import FullTensor
    from shardproof.comparison.blocks import BlockIndex

# Odd numbers without a pattern, of 63 bits; products wrap around, as int64 does.
_BITS, _PLACE, _LAST = 0x1E37_79B9_7F4A_7C15, 0x3F58_476D_1CE4_E5B9, 0x14D0_49BB_1331_11EB
# `_mix` makes a few int64 temporaries of a block.
_BLOCK = 1 << 17
_SAME_SIZE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprints:
    """Of each index along one dim: `values` int64 [n], and whether all elements are zero, `zero` bool [n]."""

    values: torch.Tensor
    zero: torch.Tensor


def fingerprint(full: FullTensor, dim: int, dtype: torch.dtype) -> Fingerprints:
    """Of each index along `dim`, of values converted to `dtype`. 0.0 and -0.0 are the same.

    Two are equal for equal values; for others with a chance of 2**-64, unless somebody looks for such.
    """
    shape = full.shape
    places = [math.prod(n for d, n in enumerate(shape) if k < d != dim) for k in range(len(shape))]
    values, nonzero = torch.zeros(shape[dim], dtype=torch.int64), torch.zeros(shape[dim], dtype=torch.int64)
    for block, numbers in read_blocks(full, dtype, _BLOCK):
        leading, part = _box(block.index)
        d = len(leading)
        box = (part.stop - part.start, *shape[d + 1 :])
        bits = _bits(numbers).view(box)
        base = sum(i * places[k] for k, i in enumerate(leading) if k != dim)
        place = torch.full((1,) * len(box), base)
        for k, size in enumerate(box, start=d):
            if k != dim:
                steps = torch.arange(size) * places[k] + (part.start * places[k] if k == d else 0)
                place = place + steps.view([size if j == k else 1 for j in range(d, len(shape))])
        mixed = _mix(bits, place)
        counted = bits != 0
        at = leading[dim] if dim < d else slice(part.start, part.stop) if dim == d else slice(None)
        others = [j for j in range(len(box)) if j + d != dim]
        values[at] += mixed.sum(others) if others else mixed
        nonzero[at] += counted.sum(others) if others else counted
    return Fingerprints(values=values, zero=nonzero == 0)


def fingerprint_whole(full: FullTensor, dtype: torch.dtype) -> int:
    """Of all elements in row-major order, whatever the shape."""
    total = 0
    for block, numbers in read_blocks(full, dtype, _BLOCK):
        place = torch.arange(block.start, block.start + numbers.numel())
        total += int(_mix(_bits(numbers), place).sum())
    return total % (1 << 64)


def _mix(bits: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    """A number from the bits of an element and its place among the elements of its index."""
    mixed = bits * _BITS + (place + 1) * _PLACE
    mixed ^= mixed >> 29
    mixed *= _LAST
    mixed ^= mixed >> 32
    return mixed.mul_(_BITS)


def _bits(values: torch.Tensor) -> torch.Tensor:
    """[n] int64 of the bits of [n] values; those of a complex number in one."""
    if values.is_complex():
        real, imaginary = torch.view_as_real(values).unbind(-1)
        return _bits(real.contiguous()) + _bits(imaginary.contiguous()) * _LAST
    if values.is_floating_point() and values.itemsize > 1:
        values = values + 0.0  # -0.0 becomes 0.0
    return values.view(_SAME_SIZE[values.itemsize]).to(torch.int64)


def _box(index: BlockIndex) -> tuple[tuple[int, ...], slice]:
    *leading, part = index
    assert isinstance(part, slice)
    return tuple(i for i in leading if isinstance(i, int)), part
