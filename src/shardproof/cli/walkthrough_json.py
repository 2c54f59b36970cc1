"""The walkthrough as one JSON document."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, TextIO

from shardproof.report.json_number import json_number

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shardproof.byhand.settings import Settings
    from shardproof.byhand.walkthrough import Section, StepReport
    from shardproof.comparison import Comparison
    from shardproof.worlds.make import WorldKind

SCHEMA_VERSION = 3


def write_json(settings: Settings, world: WorldKind, reports: Iterable[StepReport], stream: TextIO) -> bool:
    """Write the whole run when it is over; return whether every comparison is approximate."""
    steps = list(reports)
    approximate = all(line.approximate for report in steps for line in report.comparisons)
    document = {
        "schema_version": SCHEMA_VERSION,
        "settings": {**asdict(settings), "dtype": settings.dtype_name},
        "world": world,
        "approximate": approximate,
        "comparisons": sum(len(report.comparisons) for report in steps),
        "steps": [
            {
                "step": report.step,
                "loss": json_number(report.loss),
                "sections": [_describe_section(section) for section in report.sections],
            }
            for report in steps
        ],
    }
    json.dump(document, stream, indent=2, allow_nan=False)
    stream.write("\n")
    return approximate


def _describe_section(section: Section) -> dict[str, object]:
    return {
        "number": section.number,
        "comparisons": [_describe_comparison(line) for line in section.comparisons],
        "communicated": [asdict(entry) for entry in section.entries],
        "sent": [asdict(message) for message in section.messages],
        "kinks": section.sign_flips,
    }


def _describe_comparison(line: Comparison) -> dict[str, object]:
    return {
        "name": line.name,
        "shape": list(line.shape),
        "exact": line.exact,
        "approximate": line.approximate,
        "maxdiff": json_number(line.maxdiff),
        "rtol": line.rtol,
        "atol": line.atol,
    }
