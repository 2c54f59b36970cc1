"""Numbers in JSON, which has no NaN and no infinity: these are the strings "NaN", "Infinity" and "-Infinity"."""

from __future__ import annotations

import math


def json_number(value: float) -> float | str:
    """A number as it is, or the string for one that JSON does not have."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
