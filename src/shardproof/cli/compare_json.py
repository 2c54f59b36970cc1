"""The result of `shardproof compare` as JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from shardproof.report.json_number import json_number

if TYPE_CHECKING:
    from pathlib import Path

    from shardproof.checkpoints import CheckpointComparison, Row
    from shardproof.comparison import Comparison

SCHEMA_VERSION = 1

_STATISTICS = (
    "exact",
    "approximate",
    "rtol",
    "atol",
    "maxdiff",
    "max_ulp",
    "ulp_limit",
    "nan_actual",
    "nan_expected",
    "inf_actual",
    "inf_expected",
)


def render_json(
    comparison: CheckpointComparison, *, actual: Path, expected: Path, exit_code: int, only_failed: bool = False
) -> str:
    """One object. NaN and infinities are strings ("NaN", "Infinity", "-Infinity"), complex numbers pairs."""
    rows = [row for row in comparison.rows if not only_failed or row.status == "failed" or row.unreadable]
    document = {
        "schema_version": SCHEMA_VERSION,
        "command": "compare",
        "actual": str(actual),
        "expected": str(expected),
        "ranks": {"actual": comparison.actual, "expected": comparison.expected},
        "exit_code": exit_code,
        "counts": comparison.counts,
        "tensors": [_describe_row(row) for row in rows],
    }
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def _describe_row(row: Row) -> dict[str, Any]:
    comparison = row.comparison
    described: dict[str, Any] = {"name": row.name, "status": row.status, "finding": row.finding, "reason": row.told}
    if comparison is None:
        return described
    described |= {
        "outcome": comparison.outcome,
        "reason": row.told or comparison.mismatch,
        "layouts": {"actual": row.layouts[0], "expected": row.layouts[1]},
        "shape": list(comparison.shape),
        "dtype": str(comparison.dtype).removeprefix("torch."),
    }
    if comparison.mismatch is None and comparison.count:
        described |= {key: _json_value(getattr(comparison, key)) for key in _STATISTICS}
        described["worst"] = _describe_worst(comparison)
    return described


def _describe_worst(comparison: Comparison) -> dict[str, Any] | None:
    worst = comparison.worst
    if worst is None:
        return None
    values = {"actual": _json_value(worst.actual), "expected": _json_value(worst.expected)}
    return {"index": list(worst.index), **values, "ulp": worst.ulp}


def _json_value(value: Any) -> Any:
    """Return what JSON can hold: a complex number as a pair, NaN and infinities as strings."""
    if isinstance(value, complex):
        return [_json_value(value.real), _json_value(value.imag)]
    return json_number(value) if isinstance(value, float) else value
