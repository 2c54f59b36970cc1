"""SplitMix64's finaliser: 64 bits that look random for each 64-bit integer, as residues.

Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014, figure 15. PyTorch's integers are
signed; products wrap around as unsigned ones do, and shifts copy the sign, which is masked away.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from shardproof.exact.algebra.field import Field

# The paper's constants as signed integers: 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9 and 0x94D049BB133111EB less 2**64.
GOLDEN_GAMMA: Final = -0x61C8864680B583EB
_FIRST: Final = -0x40A7B892E31B1A47
_SECOND: Final = -0x6B2FB644ECCEEE15


def mix_to_residues(integers: Tensor, field: Field) -> Tensor:
    """A residue for each integer, canonical, in float64: uniform over the field up to p / 2**64.

    Args:
        integers: int64, any shape; taken as 64 bits without a sign.
        field: its prime is p.
    """
    mixed = (integers ^ _shifted(integers, 30)) * _FIRST
    mixed = (mixed ^ _shifted(mixed, 27)) * _SECOND
    mixed = mixed ^ _shifted(mixed, 31)
    # The remainder of all 64 bits, in halves that are not negative.
    remainder = (_shifted(mixed, 32).remainder_(field.prime) * (2**32 % field.prime)).add_(mixed & 0xFFFF_FFFF)
    return remainder.remainder_(field.prime).sub_(field.half).to(torch.float64)


def _shifted(x: Tensor, by: int) -> Tensor:
    return (x >> by) & ((1 << (64 - by)) - 1)
