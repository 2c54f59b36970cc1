"""The package as its files say it: modules, what each imports, and the tables of docs/architecture.md."""

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "shardproof"
ARCHITECTURE = ROOT / "docs" / "architecture.md"


@cache
def read_sources():
    """The source of every file of the package, by its path in it: `exact/algebra/bound.py`."""
    return {str(path.relative_to(PACKAGE)): path.read_text() for path in sorted(PACKAGE.rglob("*.py"))}


def find_imports(files):
    """For each file, the files of the package that it imports, also inside functions and under TYPE_CHECKING.

    The name of a module that is not there, and a relative import, stand in the result as they are.
    """
    modules = {name_module(path): path for path in files}
    return {path: _imported_files(source, modules) - {path} for path, source in files.items()}


def name_module(path):
    """`exact/rules/__init__.py` is `shardproof.exact.rules`."""
    parts = ("shardproof", *Path(path).with_suffix("").parts)
    return ".".join(parts).removesuffix(".__init__")


def _imported_files(source, modules):
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {modules.get(alias.name, alias.name) for alias in node.names if _is_ours(alias.name)}
        if isinstance(node, ast.ImportFrom) and node.level:
            found.add("a relative import")
        elif isinstance(node, ast.ImportFrom) and _is_ours(node.module):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(modules[inner] if inner in modules else modules.get(node.module, node.module))
    return found


def _is_ours(name):
    return name.partition(".")[0] == "shardproof"


def read_section(title):
    """The text of a section of docs/architecture.md, up to the next heading of any level."""
    found = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#|\Z)", ARCHITECTURE.read_text(), re.MULTILINE | re.DOTALL)
    assert found, f"docs/architecture.md has no section {title!r}"
    return found[1]


def read_table(title):
    """The rows of the first table of a section, each a list of cells; without the heading."""
    rows = re.findall(r"^\|(.+)\|$", read_section(title), re.MULTILINE)
    assert len(rows) > 2, f"the section {title!r} of docs/architecture.md has no table"
    return [[cell.strip() for cell in row.split("|")] for row in rows[2:]]


def read_quoted(text):
    """What stands between backquotes."""
    return re.findall(r"`([^`]+)`", text)
