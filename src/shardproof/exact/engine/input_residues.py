"""The residues of a program's variables: drawn, the same for the same value."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import torch

from shardproof.exact.algebra.splitmix import GOLDEN_GAMMA, mix_to_residues

if TYPE_CHECKING:
    from torch import Tensor

    from shardproof.exact.algebra.field import Field


def draw_for_values(values: Tensor, *, field: Field, key: int) -> Tensor:
    """Drawn residues that depend on the key and the real value alone, in float64.

    Equal values get equal residues, wherever they are held: replicas, shards and tied weights stay what they are. Small
    dyadic numbers (0, 1, -0.5, 3/64: what programs initialise with on purpose) keep their own meaning.
    """
    real = values.detach().to("cpu", torch.float64).reshape(-1).contiguous()
    if not bool(real.isfinite().all()):
        msg = "a tensor holds NaN or infinity; exact arithmetic needs finite numbers"
        raise FloatingPointError(msg)
    start = (GOLDEN_GAMMA * (key * 2 + 1) + 2**63) % 2**64 - 2**63
    drawn = mix_to_residues(real.view(torch.int64) + start, field)
    scaled = real * 64
    plain = (real.abs() <= 64) & (scaled == scaled.round())
    found, which = scaled[plain].unique(return_inverse=True)
    residues = [float(field.representative(Fraction(int(x), 64))) for x in found.tolist()]
    drawn[plain] = torch.tensor(residues, dtype=torch.float64)[which]
    return drawn.to(values.device).view(values.shape)
