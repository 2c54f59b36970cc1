"""Code lines: where in the user's repository a first cause is to be looked at, for annotations on its files."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from shardproof.proving.records import ACTIVATIONS
from shardproof.source_lines import parse_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shardproof.frameworks.plan_source import PlanEntry, PlanSource
    from shardproof.proving.findings import Finding
    from shardproof.proving.records import Key


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeLine:
    """A line of a file of the repository; the path is relative to its root, with slashes."""

    path: str
    line: int


def find_code_line(finding: Finding, source: PlanSource | None, root: Path) -> CodeLine | None:
    """Where a finding is to be looked at; None if no line of a file under `root` is known.

    The first of these that lies under `root`: the entry of the plan that splits the module, the line that calls the
    module, the line where the sharding begins.

    Args:
        finding: a first cause.
        source: of the sharding.
        root: the folder of the repository.
    """
    for path, line in _list_lines(finding, source):
        resolved = path.resolve()
        if resolved.is_file() and resolved.is_relative_to(root.resolve()):
            return CodeLine(path=resolved.relative_to(root.resolve()).as_posix(), line=line)
    return None


def _list_lines(finding: Finding, source: PlanSource | None) -> Iterator[tuple[Path, int]]:
    entry = None if source is None else _find_entry(finding.key, source)
    if source is not None and entry is not None:
        yield source.path, entry.line
    called = parse_line(finding.source_line)
    if called is not None and _holds_function(Path(called[0]), called[1], called[2]):
        yield Path(called[0]), called[1]
    if source is not None and source.line is not None:
        yield source.path, source.line


def find_module(key: Key) -> str:
    """The name of the module that a tensor belongs to; empty if it belongs to none."""
    name = key.name.partition("/")[0]
    return name.partition("[")[0] if key.phase in ACTIVATIONS else name.rpartition(".")[0]


def _find_entry(key: Key, source: PlanSource) -> PlanEntry | None:
    """The longest pattern that matches a name, or its end: a plan may begin inside the model.

    Of two that are the same, the first behind the line where the sharding begins. A pattern of one word is no
    parameter's: `weight` is the key of many a dictionary that is no plan.
    """
    module, parameter = find_module(key), "" if key.phase in ACTIVATIONS else key.name.partition("/")[0]
    matching = [
        entry
        for entry in source.entries
        if entry.pattern.strip("*.")
        and (_matches(module, entry.pattern) or ("." in entry.pattern and _matches(parameter, entry.pattern)))
    ]
    start = source.line or 0
    return max(matching, key=lambda entry: (len(entry.pattern), entry.line >= start), default=None)


def _matches(name: str, pattern: str) -> bool:
    return bool(name) and (fnmatchcase(name, pattern) or fnmatchcase(name, f"*.{pattern}"))


def _holds_function(path: Path, line: int, function: str) -> bool:
    """Whether a file has so many lines, and the function: another of that name in the current folder has not."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    known = function.startswith("<") or f"def {function}(" in text
    return known and line <= text.count("\n") + 1
