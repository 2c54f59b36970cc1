"""The residues of a program's variables: drawn, the same for the same value."""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from torch import Tensor

    from shardproof.exact.algebra.field import Field


@lru_cache(maxsize=1)
def _odd_multipliers() -> tuple[np.uint64, np.uint64, np.uint64]:
    return np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def draw_for_values(values: Tensor, *, field: Field, key: int) -> Tensor:
    """Drawn residues that depend on the key and the real value alone, in float64.

    Equal values get equal residues, wherever they are held: replicas, shards and tied weights stay what they are. Small
    dyadic numbers (0, 1, -0.5, 3/64: what programs initialise with on purpose) keep their own meaning.
    The mixing function is splitmix64's finaliser (Steele, Lea, Flood 2014, figure 15).
    """
    real = values.detach().to("cpu", torch.float64).reshape(-1).numpy()
    if not np.isfinite(real).all():
        msg = "a tensor holds NaN or infinity; exact arithmetic needs finite numbers"
        raise FloatingPointError(msg)
    golden, first, second = _odd_multipliers()
    with np.errstate(over="ignore"):
        mixed = real.view(np.uint64) + golden * np.uint64((key * 2 + 1) % 2**64)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * first
        mixed = (mixed ^ (mixed >> np.uint64(27))) * second
        mixed ^= mixed >> np.uint64(31)
    drawn = (mixed % np.uint64(field.prime)).astype(np.float64) - field.half
    scaled = real * 64
    plain = (np.abs(real) <= 64) & (scaled == np.rint(scaled))
    drawn[plain] = [field.representative(Fraction(int(x), 64)) for x in scaled[plain]]
    return torch.from_numpy(drawn).to(values.device).view(values.shape)
