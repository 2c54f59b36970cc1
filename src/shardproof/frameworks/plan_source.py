"""The source of a sharding: the file and line where it is written, and the lines of the entries of its plan.

Found by reading files, never by running them.
"""

from __future__ import annotations

import ast
import functools
import inspect
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shardproof.frameworks.transformers.plans import OwnPlan

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shardproof.frameworks.specification import Specification
    from shardproof.proving.running.target import ProofTarget


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanEntry:
    """A pattern of module names, as a plan has it, and its line; `{...}` of an f-string is `*`."""

    pattern: str
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSource:
    """Where a sharding is written.

    Attributes:
        path: of the file.
        line: where the sharding begins; None where it is known only that it stands in the file.
        entries: strings that may be entries of its plan: the keys of its dictionaries.
    """

    path: Path
    line: int | None = None
    entries: tuple[PlanEntry, ...] = ()


def find_plan_source(specification: Specification, target: ProofTarget) -> PlanSource | None:
    """The source of what `specification` names: its plan's file, or the function that shards or trains.

    None where no file is known that could be read.
    """
    function = target.candidate if target.parallelize is None else target.parallelize
    if not isinstance(function, OwnPlan):
        return read_function_source(function)
    if specification.plan is not None:
        path, colon, name = specification.plan.rpartition(".py:")
        return read_file_source(Path(f"{path}.py"), name) if colon else read_file_source(Path(specification.plan))
    return _read_configuration_source(specification)


def read_function_source(function: Any) -> PlanSource | None:
    """The source of a Python function, or of an object that is called like one."""
    while isinstance(function, functools.partial):
        function = function.func
    function = inspect.unwrap(function) if callable(function) else function
    code = getattr(function, "__code__", None) or getattr(vars(type(function)).get("__call__"), "__code__", None)
    if code is None or not Path(code.co_filename).is_file():
        return None
    path = Path(code.co_filename)
    return PlanSource(path=path, line=code.co_firstlineno, entries=read_entries(path))


def read_file_source(path: Path, name: str = "") -> PlanSource | None:
    """The source of a plan in a file: an object in JSON, or NAME in Python; None if there is no such file."""
    if not path.is_file():
        return None
    entries = read_entries(path)
    lines = _read_text(path).splitlines()
    starts = (number for number, line in enumerate(lines, 1) if re.match(rf"(def )?{re.escape(name)}\b", line))
    return PlanSource(path=path, line=next(starts, None) if name else None, entries=entries)


def read_entries(path: Path) -> tuple[PlanEntry, ...]:
    """The keys of all dictionaries that a file of Python or JSON writes down, in order; none if it cannot be parsed."""
    text = _read_text(path)
    if path.suffix == ".json":
        return tuple(_list_json_keys(text))
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return ()
    keys = [key for node in ast.walk(tree) for key in _list_keys(node)]
    entries = [PlanEntry(pattern=text, line=key.lineno) for key in keys if (text := _read_string(key))]
    return tuple(sorted(entries, key=lambda entry: entry.line))


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _list_keys(node: ast.AST) -> Iterator[ast.expr]:
    """The keys that a node writes: of `{key: value}`, and of `plan[key] = value`."""
    if isinstance(node, ast.Dict):
        yield from (key for key in node.keys if key is not None)
    elif isinstance(node, ast.DictComp):
        yield node.key
    elif isinstance(node, ast.Assign):
        yield from (target.slice for target in node.targets if isinstance(target, ast.Subscript))


def _read_string(key: ast.expr) -> str:
    """A string, an f-string as a pattern; empty for anything else."""
    if isinstance(key, ast.Constant):
        return key.value if isinstance(key.value, str) else ""
    if isinstance(key, ast.JoinedStr):
        parts = [str(part.value) if isinstance(part, ast.Constant) else "*" for part in key.values]
        return "".join(parts)
    return ""


def _list_json_keys(text: str) -> Iterator[PlanEntry]:
    for found in re.finditer(r'"(?:[^"\\\n]|\\.)*"(?=\s*:)', text):
        try:
            pattern = json.loads(found[0])
        except ValueError:
            continue
        yield PlanEntry(pattern=pattern, line=text.count("\n", 0, found.start()) + 1)


def _read_configuration_source(specification: Specification) -> PlanSource | None:
    """The file of the configuration's class, in which a model of transformers has its plan."""
    from shardproof.frameworks.transformers.configuration import load_configuration

    config = load_configuration(specification.step.removeprefix("hf:"), specification.settings, full_size=True)
    text_config = config.get_text_config()
    file = inspect.getsourcefile(type(text_config))
    return None if file is None else read_file_source(Path(file))
