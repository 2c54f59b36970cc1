"""docs/performance-figures.md is what `python -m benchmarks.page` makes of benchmarks/results.json."""

import json

from benchmarks import page
from benchmarks.__main__ import RESULTS


def test_the_page_has_the_figures_that_were_measured():
    results = json.loads(RESULTS.read_text())
    assert page.TARGET.read_text() == page.render(results)


def test_what_misses_its_target_is_bold():
    row = {"what": "a thing", "ours": 3.0, "unit": "s", "peer": {"name": "floor", "value": 2.0}, "ratio": 1.5}
    rows = [
        row | {"target": target, "at_least": False, "met": met, "spread": 0.04}
        for target, met in ((2, True), (1, False))
    ]
    benchmark = {"date": "2026-11-30T10:00:00", "torch": "2.13.0", "cpu": "some", "cores": 2, "rows": rows}
    lines = page.render({"benchmarks": {"things": benchmark}}).splitlines()
    assert [line for line in lines if line.startswith("| a thing")] == [
        "| a thing | 3 s | floor: 2 | 1.50 | <= 2 | 4% |",
        "| a thing | 3 s | floor: 2 | **1.50** | <= 1 | 4% |",
    ]
    assert any("2 figures, 1 beside their targets." in line for line in lines)
