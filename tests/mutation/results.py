"""What became of the mutants of each file: kept in results.json, shown in docs/testing.md."""

import json
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType

HERE = Path(__file__).parent
RESULTS, REASONS = HERE / "results.json", HERE / "survivors.toml"
PAGE = HERE.parents[1] / "docs" / "testing.md"
# How the reason of a survivor starts that no test can tell: another text of the same program.
_SAME = ("The same program", "The same results")
_COLUMNS = (
    *("file", "mutants", "tried", "killed", "timed out", "survived", "noticed"),
    *("the same program", "noticed of the others"),
)
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

    def count_same(self, reasons):
        """How many survivors are the same program as the right one, as the reasons of the file say."""
        return sum(reasons.get(change, "").startswith(_SAME) for change in self.survivors)

    def share(self, reasons=MappingProxyType({})):
        """Which part of those that are another program was noticed; 1 where there are none."""
        others = self.tried - self.count_same(reasons)
        return (self.killed + self.timed_out) / others if others else 1.0


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
    yield f"| {' | '.join(_COLUMNS)} |"
    yield f"|{'---|' * len(_COLUMNS)}"
    for name in sorted(results):
        yield _row(f"`{name}`", {name: results[name]}, reasons)
    yield _row("all", results, reasons)
    for name in sorted(results):
        if results[name].survivors:
            yield ""
            yield f"Survivors of `{name}`:"
            yield ""
        for change in results[name].survivors:
            yield f"- `` {change} ``: {reasons.get(name, {}).get(change, 'not explained yet.')}"


def _row(name, results, reasons):
    every = list(results.values())
    whole = Result(
        mutants=sum(result.mutants for result in every),
        killed=sum(result.killed for result in every),
        timed_out=sum(result.timed_out for result in every),
        survivors=tuple(change for result in every for change in result.survivors),
        seconds=0,
    )
    same = sum(result.count_same(reasons.get(file, {})) for file, result in results.items())
    noticed = whole.killed + whole.timed_out
    share, of_others = (f"{noticed / tried:.1%}" if tried else "-" for tried in (whole.tried, whole.tried - same))
    counts = (whole.mutants, whole.tried, whole.killed, whole.timed_out, len(whole.survivors))
    return f"| {' | '.join(map(str, (name, *counts, share, same, of_others)))} |"


def write_page(results, reasons, page=PAGE):
    """Put the lines between the marks of the page."""
    before, _, rest = page.read_text().partition(START)
    page.write_text(before + START + "\n".join([*render(results, reasons), ""]) + END + rest.partition(END)[2])
