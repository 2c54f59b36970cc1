"""Prints the kill matrix, then the correct configurations; see docs/mutants.md."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.mutants.bug import load_bugs
from benchmarks.mutants.correct import KINDS, configurations
from benchmarks.mutants.matrix import HEADER, RULE, format_row
from benchmarks.mutants.pool import Pool

DOCS = Path(__file__).parents[2] / "docs" / "mutants.md"
START, END = "<!-- the table starts here -->\n", "<!-- the table ends here -->\n"


def main() -> int:
    """Exit code 0 if all bugs are killed and nothing correct is refused, else 1; 2 for what is not there."""
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
        proved, alarms = print_correct(pool, [i * every // count for i in range(count)], lines)
    last = f"mutants: {killed} killed, {survived} survived; correct: {proved} proved, {alarms} false alarms"
    if arguments.docs:
        before, _, rest = DOCS.read_text().partition(START)
        after = rest.partition(END)[2]
        DOCS.write_text(before + START + "\n".join([*lines, "", f"`{last}`", ""]) + END + after)
    print(last)
    return int(survived > 0 or alarms > 0)


def print_matrix(pool: Pool, ids: list[str], lines: list[str]) -> tuple[int, int]:
    """How many bugs are killed, and how many survive."""
    _say(lines, HEADER, RULE)
    rows = []
    for row in pool.run_bugs(ids):
        rows.append(row)
        _say(lines, format_row(row))
    killed = sum(row.killed for row in rows)
    return killed, len(rows) - killed


def print_correct(pool: Pool, numbers: list[int], lines: list[str]) -> tuple[int, int]:
    """How many are proved, and how many refused; kind by kind, each refusal with its first causes."""
    _say(lines, "", "| correct configurations | proved | of | s |", "|---|---|---|---|")
    tried = pool.try_configurations(numbers)
    proved, stop, refusals = 0, 0, []
    for kind in KINDS:
        start, stop = stop, stop + sum(1 for _ in kind.configurations())
        here = [next(tried) for number in numbers if start <= number < stop]
        fine = sum(not one.alarm for one in here)
        refusals += [f"- false alarm: {one.name}: {one.alarm}" for one in here if one.alarm]
        name = kind.__name__.rpartition(".")[2].replace("_", " ")
        _say(lines, f"| {name} | {fine} | {len(here)} | {sum(one.seconds for one in here):.0f} |")
        proved += fine
    if refusals:
        _say(lines, "", *refusals)
    return proved, len(numbers) - proved


def _say(lines: list[str], *said: str) -> None:
    lines += said
    print("\n".join(said), flush=True)


if __name__ == "__main__":
    sys.exit(main())
