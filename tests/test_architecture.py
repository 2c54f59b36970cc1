"""Imports go one way: from a room to those above it in docs/architecture.md, and never in a circle."""

from functools import cache

import pytest
from tests.source_tree import find_imports, read_quoted, read_sources, read_table


@cache
def read_imports():
    return find_imports(read_sources())


def read_rooms():
    """The rooms in the order of the table, a set for each row: rooms of one row don't import each other."""
    return [set(read_quoted(row[0])) for row in read_table("Rooms")]


def find_room(path, rooms):
    """The room of a file: the longest that it lies in, or None."""
    lying_in = [room for row in rooms for room in row if path == room or (room.endswith("/") and path.startswith(room))]
    return max(lying_in, key=len, default=None)


def find_upward(imports, rooms):
    """`file imports file` for each import of a room below, of a room beside, and of something without a room."""
    level = {room: number for number, row in enumerate(rooms) for room in row}
    found = set()
    for path, others in imports.items():
        own = find_room(path, rooms)
        for other in others:
            room = find_room(other, rooms)
            if None in (own, room) or (own != room and level[room] >= level[own]):
                found.add(f"{path} imports {other}")
    return found


def find_circles(imports):
    """The sets of files that reach each other by imports (strongly connected components, by reachability)."""
    reached = {path: _reach(path, imports) for path in imports}
    circles = {frozenset(p for p in reached[path] if path in reached.get(p, ())) for path in imports}
    return [set(circle) for circle in circles if circle]


def _reach(start, imports):
    reached, waiting = set(), [start]
    while waiting:
        for other in imports.get(waiting.pop(), ()):
            if other not in reached:
                reached.add(other)
                waiting.append(other)
    return reached


def test_imports_go_up_the_table_only():
    found = find_upward(read_imports(), read_rooms())
    assert sorted(found) == [], "the order is that of the table Rooms in docs/architecture.md; a new room needs a line"


def test_no_circle_of_imports():
    assert find_circles(read_imports()) == []


def test_every_file_has_a_room_and_every_room_a_file():
    rooms = read_rooms()
    found = {path: find_room(path, rooms) for path in read_sources()}
    assert [path for path, room in found.items() if room is None] == []
    assert {room for row in rooms for room in row} == set(found.values())


def find_modes(path, source, imports):
    """The modes, tags and storages that a file of rules sees: by import, by name of their type, by call."""
    imported = {f"{path} imports {other}" for other in imports if other.startswith("exact/engine/")}
    return imported | {f"{path}: {word}" for word in ("DispatchMode", "FunctionMode", "storage(") if word in source}


def test_rules_see_no_modes_tags_or_storages():
    sources = read_sources()
    imports = read_imports()
    rules = [path for path in sources if path.startswith("exact/rules/")]
    assert len(rules) > 20
    assert set().union(*(find_modes(path, sources[path], imports[path]) for path in rules)) == set()


# Planted violations, beside the checks that find them.

ROOMS = [
    {"errors.py"},
    {"exact/algebra/"},
    {"exact/rules/"},
    {"exact/engine/"},
    {"exact/"},
    {"proving/running/", "proving/judging/"},
    {"proving/"},
]


@pytest.mark.parametrize(
    ("path", "source", "found"),
    [
        ("exact/rules/order.py", "from shardproof.exact.engine.mode import Mode", "exact/engine/mode.py"),
        ("exact/rules/order.py", "from shardproof.exact.engine import mode", "exact/engine/mode.py"),
        ("exact/engine/mode.py", "def f():\n    import shardproof.proving.prove", "proving/prove.py"),
        ("exact/engine/mode.py", "from shardproof.exact import ExactArithmetic", "exact/__init__.py"),
        ("proving/judging/judge.py", "import shardproof.proving.running.hooks", "proving/running/hooks.py"),
        ("proving/running/hooks.py", "from shardproof.proving.judging.judge import x", "proving/judging/judge.py"),
        (
            "exact/rules/order.py",
            "if TYPE_CHECKING:\n    from shardproof.exact.engine.mode import Mode",
            "exact/engine/mode.py",
        ),
        ("exact/rules/order.py", "from . import cut", "a relative import"),
        ("exact/rules/order.py", "from shardproof.nowhere import cut", "shardproof.nowhere"),
        ("nowhere.py", "from shardproof import errors", "errors.py"),
    ],
)
def test_an_import_that_goes_down_or_beside_is_found(path, source, found):
    files = dict.fromkeys(
        (
            *("errors.py", "exact/__init__.py", "exact/rules/order.py", "exact/engine/mode.py", "proving/prove.py"),
            *("proving/judging/judge.py", "proving/running/hooks.py"),
        ),
        "from shardproof.errors import CannotRunError",
    )
    files["errors.py"] = ""
    assert find_upward(find_imports(files), ROOMS) == set()
    assert find_upward(find_imports(files | {path: source}), ROOMS) == {f"{path} imports {found}"}


def test_a_circle_is_found_also_where_one_import_is_for_types_only():
    straight = {
        "a.py": "from shardproof import b",
        "b.py": "from shardproof.c import C",
        "c.py": "import torch",
        "d.py": "import shardproof.a",
    }
    assert find_circles(find_imports(straight)) == []
    back = {"c.py": "if TYPE_CHECKING:\n    from shardproof.a import A"}
    assert find_circles(find_imports(straight | back)) == [{"a.py", "b.py", "c.py"}]


def test_a_room_of_a_file_is_the_innermost():
    assert find_room("exact/rules/order.py", ROOMS) == "exact/rules/"
    assert find_room("exact/soundness.py", ROOMS) == "exact/"
    assert find_room("errors.py", ROOMS) == "errors.py"
    assert find_room("exactly.py", ROOMS) is None


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("", set()),
        ("from torch.utils._python_dispatch import TorchDispatchMode", {"exact/rules/a.py: DispatchMode"}),
        ("def f(x):\n    return x.untyped_storage()", {"exact/rules/a.py: storage("}),
        ("from shardproof.exact.engine import tags", {"exact/rules/a.py imports exact/engine/tags.py"}),
    ],
)
def test_a_rule_that_sees_a_mode_a_tag_or_a_storage_is_found(source, found):
    files = {"exact/rules/a.py": source, "exact/engine/tags.py": ""}
    assert find_modes("exact/rules/a.py", source, find_imports(files)["exact/rules/a.py"]) == found
