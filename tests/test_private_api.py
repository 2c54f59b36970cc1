"""The table of private API in docs/architecture.md is what the source uses: every name, and where."""

import ast

import pytest
from tests.source_tree import read_quoted, read_sources, read_table

LIBRARIES = ("torch", "transformers")
_OF_NAMED_TUPLES = {"_fields"}  # documented by Python
_ASKS_BY_NAME = {"getattr", "hasattr", "setattr", "delattr"}


def is_private(name):
    return name.startswith("_") and not (name.startswith("__") and name.endswith("__"))


def cut_after_private(name):
    """`torch._C._functorch.get_unwrapped` is `torch._C._functorch`; None where nothing in it is private.

    Cut after the first run of private parts: what follows is found with it.

    The name of an ATen op is that of an op, which docs/exact-ops.md lists, whether it starts with an underscore or not.
    """
    parts = name.split(".")
    if parts[:3] == ["torch", "ops", "aten"]:
        return None
    first = next((i for i, part in enumerate(parts) if is_private(part)), None)
    if first is None:
        return None
    end = next((i for i in range(first, len(parts)) if not is_private(parts[i])), len(parts))
    return ".".join(parts[:end])


def find_private_names(source, own):
    """Private names of libraries in one file: dotted where the library is named, `.name` for attributes of objects.

    Args:
        source: of the file.
        own: private names that the package itself defines; such an attribute is its own.
    """
    tree = ast.parse(source)
    aliases = dict(_imported_names(tree))
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    found = {cut_after_private(dotted) for dotted in aliases.values()}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            dotted = _spell(node, aliases)
            if dotted is not None and id(node) not in inner:
                found.add(cut_after_private(dotted))
            elif dotted is None and is_private(node.attr) and node.attr not in own and not _is_of_python(node):
                found.add(f".{node.attr}")
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _ASKS_BY_NAME:
            asked = node.args[1]
            if isinstance(asked, ast.Constant) and is_private(asked.value) and asked.value not in own:
                found.add(f".{asked.value}")
    return found - {None}


def _is_of_python(node):
    """`os._exit`, `sys._getframe`: Python's own, and documented."""
    return isinstance(node.value, ast.Name) and node.value.id in ("os", "sys")


def _imported_names(tree):
    """What each imported name of a library stands for."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] in LIBRARIES:
                    yield (alias.asname or alias.name.partition(".")[0]), (alias.name if alias.asname else "torch")
                    yield alias.name, alias.name
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] in LIBRARIES:
            for alias in node.names:
                yield alias.asname or alias.name, f"{node.module}.{alias.name}"
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):  # _aten = torch.ops.aten
            spelled = _spell(node.value, {"torch": "torch"})
            if spelled is not None:
                yield node.targets[0].id, spelled
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            spelled = _spell(node.value, {"torch": "torch"})
            if spelled is not None:
                yield node.target.id, spelled


def _spell(node, aliases):
    """`torch.ops.aten` from the expression for it; None where it does not start at a library."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name) or node.id not in aliases:
        return None
    return ".".join([aliases[node.id], *reversed(parts)])


def find_own_names(sources):
    """Private names that the package defines: functions, classes, fields, attributes of self, variables."""
    own = set()
    for source in sources:
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                own.add(node.name)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                own.add(node.id)
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                own |= {node.attr} if isinstance(node.value, ast.Name) and node.value.id == "self" else set()
    return own


def find_uses(sources):
    own = find_own_names(sources.values()) | _OF_NAMED_TUPLES
    return {(name, path) for path, source in sources.items() for name in find_private_names(source, own)}


def read_uses():
    """The pairs of name and place of the table; a place is a file or a folder with many."""
    return [(name, place) for names, places, *_ in read_rows() for name in names for place in places]


def read_rows():
    return [[read_quoted(cell) for cell in row] for row in read_table("Private API")]


def covers(row, use):
    (name, place), (used, path) = row, use
    return name == used and (place == path or (place.endswith("/") and path.startswith(place)))


def compare_uses(uses, rows):
    """What is used and not in the table, and what is in the table and not used."""
    missing = {f"{name} in {path}" for name, path in uses if not any(covers(row, (name, path)) for row in rows)}
    stale = {f"{name} in {place}" for name, place in rows if not any(covers((name, place), use) for use in uses)}
    return missing, stale


def test_the_table_of_private_api_is_what_the_source_uses():
    missing, stale = compare_uses(find_uses(read_sources()), read_uses())
    assert sorted(missing) == []
    assert sorted(stale) == []


def test_every_row_says_what_it_is_for():
    assert all(len(row) == 3 and row[2] for row in read_table("Private API"))


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import torch\ntorch._C._log_api_usage_once('x')", {"torch._C._log_api_usage_once"}),
        ("from torch._C import _to_dlpack", {"torch._C._to_dlpack"}),
        ("from torch.utils._pytree import tree_map", {"torch.utils._pytree"}),
        (
            "from torch.distributed import _functional_collectives as funcol",
            {"torch.distributed._functional_collectives"},
        ),
        ("def f():\n    import torch.testing._internal.common_utils", {"torch.testing._internal"}),
        ("if TYPE_CHECKING:\n    from torch._ops import OpOverload", {"torch._ops"}),
        ("def f(x):\n    return x.untyped_storage()._cdata", {"._cdata"}),
        ("def f(x):\n    return getattr(x, '_local_tensor', None)", {"._local_tensor"}),
        ("import torch\nx = torch.ops._c10d_functional.wait_tensor", {"torch.ops._c10d_functional"}),
        ("import torch\nx = torch.ops.aten._softmax.default", set()),
        ("import torch\n_aten = torch.ops.aten\nx = _aten._softmax.default", set()),
        ("class A:\n    def f(self):\n        return self._own", set()),
        ("import torch\nx = torch.Tensor.__dlpack__", set()),
        ("from shardproof.exact import _private", set()),
    ],
)
def test_a_private_name_is_found_however_it_is_written(source, found):
    assert find_private_names(source, {"_own"}) == found


def test_a_name_that_is_missing_or_stale_is_found():
    uses = {("torch._C", "a.py"), ("._cdata", "room/b.py")}
    assert compare_uses(uses, [("torch._C", "a.py"), ("._cdata", "room/")]) == (set(), set())
    assert compare_uses(uses, [("torch._C", "a.py")]) == ({"._cdata in room/b.py"}, set())
    assert compare_uses(uses, [("torch._C", "b.py"), ("._cdata", "room/")]) == (
        {"torch._C in a.py"},
        {"torch._C in b.py"},
    )
    assert compare_uses(set(), [("._cdata", "room/")]) == (set(), {"._cdata in room/"})
