"""Prints the kill matrix, then the correct configurations; see docs/mutants.md."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.mutants.bug import load_bugs
from benchmarks.mutants.correct import by_kind, title_of
from benchmarks.mutants.jobs import Job
from benchmarks.mutants.matrix import HEADER, RULE, Row, cause_right, format_row
from benchmarks.mutants.pool import run_jobs
from benchmarks.mutants.progress import DEFAULT, ROOT, Progress, digest_code
from benchmarks.mutants.sample import evenly, spread
from benchmarks.mutants.tried import Tried

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from benchmarks.mutants.bug import Bug

DOCS = ROOT / "docs" / "mutants.md"
ALLOWED_UNDECIDED = 0.01
START, END = "<!-- the table starts here -->\n", "<!-- the table ends here -->\n"


def main() -> int:
    """Exit code 0 if all bugs are killed for their reason, nothing correct is WRONG, at most 1% UNDECIDED; else 1."""
    arguments = _arguments()
    every = by_kind()
    if arguments.list:
        print("\n".join(f"{kind}: {name}" for kind, names in every.items() for name in names))
        return 0
    bugs = [bug for bug in load_bugs() if not arguments.ids or bug.id in arguments.ids]
    chosen = _choose(every, arguments)
    results = _run([*(Job("bug", bug.id) for bug in bugs), *(Job("correct", n) for n in _flat(chosen))], arguments)
    rows = [_row(bug, results[Job("bug", bug.id)]) for bug in bugs]
    tried = {name: _tried(name, results[Job("correct", name)]) for name in _flat(chosen)}
    lines = [*_bug_lines(bugs, rows), "", *_correct_lines(chosen, tried)]
    last = _summary(bugs, rows, list(tried.values()))
    print("\n".join(lines))
    if arguments.docs:
        before, _, rest = DOCS.read_text().partition(START)
        DOCS.write_text(before + START + "\n".join([*lines, "", f"`{last}`", ""]) + END + rest.partition(END)[2])
    print(last)
    return int(not _good(bugs, rows, list(tried.values())))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mutants", description=__doc__)
    parser.add_argument("ids", nargs="*", metavar="ID", help="only these bugs (default: all)")
    parser.add_argument("--fast", action="store_true", help="all bugs, a fixed spread of the correct ones")
    parser.add_argument("--correct", type=int, metavar="N", help="so many correct ones, evenly chosen")
    parser.add_argument("--only", metavar="TEXT", help="correct ones whose kind or name contains this; no bugs")
    parser.add_argument("-j", "--processes", type=int, default=2, metavar="N", help="at a time (default: 2)")
    parser.add_argument("--timeout", type=float, default=300, metavar="S", help="seconds for each (default: 300)")
    parser.add_argument("--progress", type=Path, default=DEFAULT, metavar="FILE", help=f"default: {DEFAULT.name}")
    parser.add_argument("--again", action="store_true", help="take no result from the progress file")
    parser.add_argument("--docs", action="store_true", help="write the tables into docs/mutants.md too")
    parser.add_argument("--list", action="store_true", help="only list the correct configurations")
    arguments = parser.parse_args()
    known = [bug.id for bug in load_bugs()]
    if unknown := sorted(set(arguments.ids) - set(known)):
        parser.error(f"no bug {', '.join(unknown)}; there are {', '.join(known)}")
    if arguments.only:
        arguments.ids = arguments.ids or ["-"]
    return arguments


def _choose(every: Mapping[str, list[str]], arguments: argparse.Namespace) -> dict[str, list[str]]:
    """Names of the configurations to be run, by kind."""
    if arguments.only:
        text = arguments.only
        chosen = {kind: [n for n in names if text in n or text in kind] for kind, names in every.items()}
        return {kind: evenly(names, arguments.correct) for kind, names in chosen.items() if names}
    if arguments.fast:
        return spread(every)
    if arguments.correct is not None:
        wanted = set(evenly(_flat(every), arguments.correct))
        return {kind: [name for name in names if name in wanted] for kind, names in every.items()}
    return {} if arguments.ids else dict(every)


def _run(jobs: Sequence[Job], arguments: argparse.Namespace) -> Mapping[Job, Mapping[str, Any]]:
    """The result of each job, from the progress file or run now; each is told as it comes."""
    progress = Progress(arguments.progress, digest_code())
    results = {} if arguments.again else {job: r for job, r in progress.results().items() if job in set(jobs)}
    left = [job for job in jobs if job not in results]
    started = time.monotonic()
    for number, (job, result) in enumerate(
        run_jobs(left, processes=arguments.processes, timeout=arguments.timeout), len(jobs) - len(left) + 1
    ):
        progress.add(job, result)
        results[job] = result
        bad = result.get("failed") or result.get("mistaken") or result.get("alarm") or ""
        survived = "SURVIVED" if result.get("killed") is False else ""
        seconds = f"{time.monotonic() - started:.0f} s"
        print(f"{number}/{len(jobs)} {seconds}: {job.name}: {survived or bad or 'ok'}", file=sys.stderr, flush=True)
    return results


def _row(bug: Bug, result: Mapping[str, Any]) -> Row:
    if "failed" in result:
        nothing: dict[str, Any] = {"killed": False, "roots": [], "causes": [], "shown": ""}
        return Row(id=bug.id, refused=result["failed"], seconds=result["seconds"], **nothing)
    return Row(**result)


def _tried(name: str, result: Mapping[str, Any]) -> Tried:
    if "failed" in result:
        alarm = f"not run: {result['failed']}"
        return Tried(name=name, alarm=alarm, undecided=False, mistaken="", seconds=result["seconds"])
    return Tried(**result)


def _bug_lines(bugs: Sequence[Bug], rows: Sequence[Row]) -> list[str]:
    if not bugs:
        return []
    refused = [f"- {row.id} refused: {_one_line(row.refused)}" for row in rows if row.refused]
    lines = [HEADER, RULE, *(format_row(bug, row) for bug, row in zip(bugs, rows, strict=True))]
    unexplained = [f"- {bug.id}, no relation: {bug.unexplained}" for bug in bugs if bug.unexplained]
    told = [*refused, *unexplained]
    return [*lines, *([""] if told else []), *told]


def _correct_lines(chosen: Mapping[str, list[str]], tried: Mapping[str, Tried]) -> list[str]:
    """Each kind with what became of it; then each refusal with its first causes, and each mistake of our own."""
    lines = ["| correct configurations | proved | of | s |", "|---|---|---|---|"]
    for kind, names in chosen.items():
        here = [tried[name] for name in names]
        fine, seconds = sum(not one.alarm for one in here), sum(one.seconds for one in here)
        lines.append(f"| {title_of(kind)} | {fine} | {len(here)} | {seconds:.0f} |")
    alarms = [f"- false alarm: {one.name}: {_one_line(one.alarm)}" for one in tried.values() if one.alarm]
    mistakes = [f"- NOT CORRECT, {one.name}: {_one_line(one.mistaken)}" for one in tried.values() if one.mistaken]
    return [*lines, *([""] if alarms or mistakes else []), *alarms, *mistakes]


def _summary(bugs: Sequence[Bug], rows: Sequence[Row], tried: Sequence[Tried]) -> str:
    killed = sum(row.killed for row in rows)
    right = [cause_right(bug, row) for bug, row in zip(bugs, rows, strict=True)]
    causes = (
        f"right cause named of {right.count(True)}, not of {right.count(False)}, no relation for {right.count(None)}"
    )
    alarms = [one for one in tried if one.alarm]
    undecided = sum(one.undecided for one in alarms)
    correct = f"{len(tried) - len(alarms)} proved, {len(alarms)} false alarms ({undecided} UNDECIDED)"
    return f"mutants: {killed} killed, {len(rows) - killed} survived; {causes}; correct: {correct}"


def _good(bugs: Sequence[Bug], rows: Sequence[Row], tried: Sequence[Tried]) -> bool:
    """All bugs killed for their reason and real, nothing correct called or in fact wrong, and at most 1% UNDECIDED."""
    alarms = [one for one in tried if one.alarm]
    return (
        all(row.killed and row.shown for row in rows)
        and not any(cause_right(bug, row) is False for bug, row in zip(bugs, rows, strict=True))
        and all(one.undecided for one in alarms)
        and not any(one.mistaken for one in tried)
        and len(alarms) <= ALLOWED_UNDECIDED * len(tried)
    )


def _flat(chosen: Mapping[str, list[str]]) -> list[str]:
    return [name for names in chosen.values() for name in names]


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]


if __name__ == "__main__":
    sys.exit(main())
