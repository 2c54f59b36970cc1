"""Pads: for each element of a tensor a residue of its own, which is added where a computation is cut.

An element's number in the full tensor gives its pad, so a shard gets the pads of the elements that it holds. Pads are
those of SplitMix64, keyed by SHA-256 of the seed, the prime and the cut's name; they are the same in every process and
on every machine.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from shardproof.exact.algebra.splitmix import GOLDEN_GAMMA, mix_to_residues

if TYPE_CHECKING:
    from torch import Tensor

    from shardproof.exact.algebra.field import Field


def element_pads(field: Field, key: int, name: str, numbers: Tensor) -> Tensor:
    """The pads of elements, as canonical residues in float64, shaped like `numbers`.

    Args:
        field: each pad is uniform over its residues.
        key: the seed.
        name: of the cut; another name gives independent pads.
        numbers: int64, each element's number in the full tensor; -1 gets a pad of zero: it is padding, and stays it.
    """
    digest = hashlib.sha256(f"{key} {field.prime} {name}".encode()).digest()
    start = int.from_bytes(digest[:8], "little", signed=True)
    return mix_to_residues(numbers * GOLDEN_GAMMA + start, field).masked_fill_(numbers < 0, 0.0)
