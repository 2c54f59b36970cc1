"""docs/performance-figures.md: every row of results.json, as it was measured.

python -m benchmarks.page
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.__main__ import RESULTS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

TARGET = Path(__file__).parents[1] / "docs" / "performance-figures.md"
_HEAD = """# All measured figures

Made by `python -m benchmarks.page` from benchmarks/results.json, which `make bench` writes. [What a proof
costs](performance.md) says what they mean, and why a target is missed. *Spread* is the distance of the quartiles over
the median. Compare ratios, not times.
"""


def main() -> None:
    """Write the page."""
    TARGET.write_text(render(json.loads(RESULTS.read_text())))


def render(results: Mapping[str, Any]) -> str:
    """The page, for the content of results.json."""
    return "\n".join([_HEAD, *(line for name, one in results["benchmarks"].items() for line in _section(name, one))])


def _section(name: str, benchmark: Mapping[str, Any]) -> Iterator[str]:
    rows = benchmark["rows"]
    missed = sum(not row["met"] for row in rows)
    yield f"## {name}"
    yield ""
    yield (
        f"`python -m benchmarks {name}`, {benchmark['date'][:10]}, {benchmark['cpu']}, {benchmark['cores']} cores, "
        f"torch {benchmark['torch']}: {len(rows)} figures, {missed} beside their targets."
    )
    yield ""
    yield "| what | ours | peer or floor | ratio | target | spread |"
    yield "|---|---|---|---|---|---|"
    for row in rows:
        sign = ">=" if row["at_least"] else "<="
        ratio = f"{row['ratio']:.2f}" if row["met"] else f"**{row['ratio']:.2f}**"
        spread = "" if row["spread"] is None else f"{100 * row['spread']:.0f}%"
        peer = f"{row['peer']['name']}: {row['peer']['value']:.4g}"
        cells = (row["what"], f"{row['ours']:.4g} {row['unit']}", peer, ratio, f"{sign} {row['target']:g}", spread)
        yield f"| {' | '.join(cells)} |"
    yield ""


if __name__ == "__main__":
    main()
