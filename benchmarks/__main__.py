"""Runs every bench_*.py beside it, or those named; prints a table and writes results.json."""

from __future__ import annotations

import argparse
import datetime as dt
import importlib
import json
import os
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from benchmarks.measure import Row

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results.json"
SCHEMA_VERSION = 1


def main() -> int:
    """Exit code 0 when everything was measured, whether or not targets are met; 2 when a benchmark is unknown."""
    known = sorted(path.stem.removeprefix("bench_") for path in FOLDER.glob("bench_*.py"))
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of: {', '.join(known)} (default: all)")
    names = parser.parse_args().names or known
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"benchmarks: {', '.join(unknown)} is unknown; give any of: {', '.join(known)}", file=sys.stderr)
        return 2
    print(f"{'what':58s} | {'ours':>11s} | {'peer or floor':>34s} | {'ratio':>7s} | {'target':>9s} | met")
    missed = 0
    for name in names:
        rows = []
        for row in importlib.import_module(f"benchmarks.bench_{name}").rows():
            print(_line(row), flush=True)
            rows.append(row)
        missed += sum(not row.met for row in rows)
        _save(name, rows)
    print(f"{missed} targets missed" if missed else "every target met")
    return 0


def _line(row: Row) -> str:
    peer = f"{row.peer_name} {row.peer:.4g} {row.unit}"
    sign = ">=" if row.at_least else "<="
    ours = f"{row.ours:.4g} {row.unit}"
    met = "yes" if row.met else "NO"
    return f"{row.what:58s} | {ours:>11s} | {peer:>34s} | {row.ratio:7.2f} | {sign} {row.target:6g} | {met}"


def _save(name: str, rows: list[Row]) -> None:
    """Replace the rows of one benchmark in the file."""
    old = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    kept = {key: value for key, value in old.get("benchmarks", {}).items() if key != name}
    document = {"schema_version": SCHEMA_VERSION, "benchmarks": dict(sorted({**kept, name: _describe(rows)}.items()))}
    unfinished = RESULTS.with_suffix(".part")
    unfinished.write_text(json.dumps(document, indent=2) + "\n")
    unfinished.replace(RESULTS)


def _describe(rows: list[Row]) -> dict[str, Any]:
    """The rows, with date and machine: benchmarks may run on different days and machines."""
    return {
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "rows": [
            {
                "what": row.what,
                "ours": row.ours,
                "peer": {"name": row.peer_name, "value": row.peer},
                "unit": row.unit,
                "ratio": row.ratio,
                "target": row.target,
                "at_least": row.at_least,
                "met": row.met,
                "spread": row.spread,
            }
            for row in rows
        ],
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    return model or platform.processor() or platform.machine()


if __name__ == "__main__":
    sys.exit(main())
