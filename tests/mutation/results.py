"""What became of the mutants of each file: kept in results.json, shown in docs/testing.md."""

import json
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path

HERE = Path(__file__).parent
RESULTS, REASONS = HERE / "results.json", HERE / "survivors.toml"
PAGE = HERE.parents[1] / "docs" / "testing.md"
START, END = "<!-- the table starts here -->\n", "<!-- the table ends here -->\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The mutants of one file.

    Attributes:
        mutants: how many there are; those that were tried may be a sample.
        killed: how many of them the tests noticed.
        timed_out: how many never ended, which is noticed too.
        survivors: changes that no test noticed, `before -> after`, in the order of the file.
        seconds: for all that were tried.
    """

    mutants: int
    killed: int
    timed_out: int
    survivors: tuple[str, ...]
    seconds: float

    @property
    def tried(self):
        """How many were tried."""
        return self.killed + self.timed_out + len(self.survivors)

    @property
    def share(self):
        """Which part of those was noticed; 1 where there are none."""
        return 1 - len(self.survivors) / self.tried if self.tried else 1.0


def read_results(path=RESULTS):
    """By file; empty before the first run."""
    content = json.loads(path.read_text()) if path.exists() else {}
    return {name: Result(**{**fields, "survivors": tuple(fields["survivors"])}) for name, fields in content.items()}


def write_results(results, path=RESULTS):
    """Keep them, in the order of the files' names."""
    path.write_text(json.dumps({name: asdict(results[name]) for name in sorted(results)}, indent=1) + "\n")


def read_reasons(path=REASONS):
    """By file and change: why a survivor is the same program, or what would tell it from the right one."""
    return tomllib.loads(path.read_text())


def render(results, reasons):
    """The lines of the page: a row for each file, then each survivor with its reason."""
    yield "| file | mutants | tried | killed | timed out | survived | noticed |"
    yield "|---|---|---|---|---|---|---|"
    for name in sorted(results):
        yield _row(f"`{name}`", [results[name]])
    yield _row("all", list(results.values()))
    for name in sorted(results):
        if results[name].survivors:
            yield ""
            yield f"Survivors of `{name}`:"
            yield ""
        for change in results[name].survivors:
            yield f"- `` {change} ``: {reasons.get(name, {}).get(change, 'not explained yet.')}"


def _row(name, results):
    mutants, tried, killed, timed_out = (
        sum(getattr(result, field) for result in results) for field in ("mutants", "tried", "killed", "timed_out")
    )
    survived = tried - killed - timed_out
    share = f"{(tried - survived) / tried:.1%}" if tried else "-"
    return f"| {name} | {mutants} | {tried} | {killed} | {timed_out} | {survived} | {share} |"


def write_page(results, reasons, page=PAGE):
    """Put the lines between the marks of the page."""
    before, _, rest = page.read_text().partition(START)
    page.write_text(before + START + "\n".join([*render(results, reasons), ""]) + END + rest.partition(END)[2])
