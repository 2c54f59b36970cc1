"""Imports go one way: a room may import the rooms named before it in docs/architecture.md, and none after it."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "shardproof"


def read_order():
    """The rooms in the order of the table in docs/architecture.md, the one place where the order is written."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    return re.findall(r"^\| `([a-z_]+)(?:\.py|/)` \|", text, flags=re.MULTILINE)


def imported_rooms(source):
    """Every `shardproof.X` that a file imports, also inside functions and under TYPE_CHECKING."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level:
            yield "a relative import"
        names = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        if isinstance(node, ast.ImportFrom) and node.module == "shardproof":
            names = [f"shardproof.{alias.name}" for alias in node.names]
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "shardproof" and len(parts) > 1:
                yield parts[1]


def find_violations(files, order):
    """`room imports room` for each import against the order; a room that has no place in it is one as well."""
    found = []
    for room, source in files:
        for other in imported_rooms(source):
            if other == room:
                continue
            if room not in order or other not in order or order.index(other) > order.index(room):
                found.append(f"{room} imports {other}")
    return found


def read_files():
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).parts
        if parts[0] not in ("__init__.py", "__main__.py"):
            yield parts[0].removesuffix(".py"), path.read_text()


def test_imports_go_one_way():
    assert find_violations(read_files(), read_order()) == []


def test_every_room_has_its_line_in_the_architecture():
    assert {room for room, _ in read_files()} == set(read_order())


@pytest.mark.parametrize(
    "source",
    ["from shardproof.cli import app", "def f():\n    import shardproof.cli.app", "from shardproof import cli"],
)
def test_an_import_against_the_order_is_found(source):
    assert find_violations([("exact", source)], read_order()) == ["exact imports cli"]


def test_only_worlds_knows_the_process_group_for_threads():
    assert {room for room, source in read_files() if "multi_threaded_pg" in source} == {"worlds"}
