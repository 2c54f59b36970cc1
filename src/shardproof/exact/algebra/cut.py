"""What is recorded where a program is cut into segments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from shardproof.exact.algebra.degree import Degree


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """What reached a cut.

    Attributes:
        name: the cut's; that of its gradient's ends in ' gradient'.
        residues: int64, in the tensor's own shape (the local shape of a sharded one). Elements of masks, -inf and
            finfo.min, are one and two beyond the representatives.
        degree: of the segment that ends here; `ExactArithmetic.bound(cut)` is its bound.
        void: which elements come of a division by zero in this segment or before; None if none do.
    """

    name: str
    residues: Tensor
    degree: Degree
    void: Tensor | None
