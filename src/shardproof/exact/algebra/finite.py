"""Whether a tensor holds NaN or infinities: one pass over memory, and no mask of the tensor's size."""

from __future__ import annotations

from math import isfinite, isnan
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def all_finite(x: Tensor) -> bool:
    """Whether every element of a floating tensor is a finite number."""
    if _has_no_order(x):
        return bool(x.isfinite().all())
    return not x.numel() or all(isfinite(float(one)) for one in x.detach().aminmax())


def any_nan(x: Tensor) -> bool:
    """Whether an element of a floating tensor is NaN."""
    if _has_no_order(x):
        return bool(x.isnan().any())
    return x.numel() > 0 and isnan(float(x.detach().amin()))


def _has_no_order(x: Tensor) -> bool:
    """Complex numbers have none, and PyTorch has no minimum of floats of 8 bits."""
    return x.is_complex() or x.element_size() == 1
