"""Prints the kill matrix, then the correct configurations; see docs/mutants.md."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.mutants.bug import load_bugs
from benchmarks.mutants.correct import configurations
from benchmarks.mutants.matrix import HEADER, RULE, format_row, run_bug
from shardproof.errors import CannotRunError

DOCS = Path(__file__).parents[2] / "docs" / "mutants.md"
START, END = "<!-- the table starts here -->\n", "<!-- the table ends here -->\n"


def main() -> int:
    """Exit code 0 if all bugs are killed and nothing correct is refused, else 1."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mutants", description=__doc__)
    parser.add_argument("ids", nargs="*", metavar="ID", help="only these bugs (default: all)")
    parser.add_argument("--correct", type=int, metavar="N", help="so many correct ones, evenly chosen")
    parser.add_argument("--docs", action="store_true", help="write the table into docs/mutants.md too")
    arguments = parser.parse_args()
    lines = [HEADER, RULE]
    print("\n".join(lines), flush=True)
    rows = []
    for bug in load_bugs():
        if not arguments.ids or bug.id in arguments.ids:
            rows.append(run_bug(bug))
            lines.append(format_row(rows[-1]))
            print(lines[-1], flush=True)
    killed = sum(row.killed for row in rows)
    proved, alarms = run_correct(arguments.correct)
    last = f"mutants: {killed} killed, {len(rows) - killed} survived; correct: {proved} proved, {alarms} false alarms"
    if arguments.docs:
        before, _, rest = DOCS.read_text().partition(START)
        after = rest.partition(END)[2]
        DOCS.write_text(before + START + "\n".join([*lines, "", f"`{last}`", ""]) + END + after)
    print(last)
    return int(killed < len(rows) or alarms > 0)


def run_correct(count: int | None) -> tuple[int, int]:
    """How many are proved, and how many refused; each refusal is printed with its first causes."""
    every = list(configurations())
    chosen = every if count is None else [every[i * len(every) // count] for i in range(min(count, len(every)))]
    proved = 0
    for one in chosen:
        try:
            proof = one.prove()
        except CannotRunError as error:
            print(f"false alarm: {one.name}: {error}", flush=True)
            continue
        proved += proof.ok
        if not proof.ok:
            roots = "; ".join(f"{f.verdict} {f.key} ({f.cause})" for f in proof.roots[:3])
            print(f"false alarm: {one.name}: {roots}", flush=True)
    return proved, len(chosen) - proved


if __name__ == "__main__":
    sys.exit(main())
