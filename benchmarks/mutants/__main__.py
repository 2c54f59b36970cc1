"""Prints the kill matrix, then the correct configurations; see docs/mutants.md."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.mutants.bug import load_bugs
from benchmarks.mutants.correct import KINDS, configurations
from benchmarks.mutants.matrix import HEADER, RULE, format_row
from benchmarks.mutants.pool import Pool

if TYPE_CHECKING:
    from benchmarks.mutants.tried import Tried

DOCS = Path(__file__).parents[2] / "docs" / "mutants.md"
ALLOWED_UNDECIDED = 0.01
START, END = "<!-- the table starts here -->\n", "<!-- the table ends here -->\n"


def main() -> int:
    """Exit code 0 if all bugs are killed, nothing correct is WRONG, and no more than 1% of it UNDECIDED; else 1."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mutants", description=__doc__)
    parser.add_argument("ids", nargs="*", metavar="ID", help="only these bugs (default: all)")
    parser.add_argument("--correct", type=int, metavar="N", help="so many correct ones, evenly chosen")
    parser.add_argument("--docs", action="store_true", help="write the tables into docs/mutants.md too")
    arguments = parser.parse_args()
    known = [bug.id for bug in load_bugs()]
    if unknown := sorted(set(arguments.ids) - set(known)):
        parser.error(f"no bug {', '.join(unknown)}; there are {', '.join(known)}")
    every = len(configurations())
    count = every if arguments.correct is None else min(arguments.correct, every)
    lines: list[str] = []
    with Pool() as pool:
        killed, survived = print_matrix(pool, [i for i in known if not arguments.ids or i in arguments.ids], lines)
        tried = print_correct(pool, [i * every // count for i in range(count)], lines)
    alarms = [one for one in tried if one.alarm]
    correct = f"{len(tried) - len(alarms)} proved, {len(alarms)} false alarms"
    last = f"mutants: {killed} killed, {survived} survived; correct: {correct}"
    if arguments.docs:
        before, _, rest = DOCS.read_text().partition(START)
        after = rest.partition(END)[2]
        DOCS.write_text(before + START + "\n".join([*lines, "", f"`{last}`", ""]) + END + after)
    print(last)
    undecided = sum(one.undecided for one in alarms)
    return int(survived > 0 or undecided < len(alarms) or undecided > ALLOWED_UNDECIDED * len(tried))


def print_matrix(pool: Pool, ids: list[str], lines: list[str]) -> tuple[int, int]:
    """How many bugs are killed, and how many survive."""
    _say(lines, HEADER, RULE)
    rows = []
    for row in pool.run_bugs(ids):
        rows.append(row)
        _say(lines, format_row(row))
    killed = sum(row.killed for row in rows)
    return killed, len(rows) - killed


def print_correct(pool: Pool, numbers: list[int], lines: list[str]) -> list[Tried]:
    """What became of each; printed kind by kind, then each refusal with its first causes."""
    _say(lines, "", "| correct configurations | proved | of | s |", "|---|---|---|---|")
    results = pool.try_configurations(numbers)
    tried: list[Tried] = []
    stop = 0
    for kind in KINDS:
        start, stop = stop, stop + sum(1 for _ in kind.configurations())
        here = [next(results) for number in numbers if start <= number < stop]
        fine = sum(not one.alarm for one in here)
        name = kind.__name__.rpartition(".")[2].replace("_", " ")
        _say(lines, f"| {name} | {fine} | {len(here)} | {sum(one.seconds for one in here):.0f} |")
        tried += here
    if any(one.alarm for one in tried):
        _say(lines, "", *(f"- false alarm: {one.name}: {one.alarm}" for one in tried if one.alarm))
    return tried


def _say(lines: list[str], *said: str) -> None:
    lines += said
    print("\n".join(said), flush=True)


if __name__ == "__main__":
    sys.exit(main())
