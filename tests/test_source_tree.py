"""A file is found from its feature's name in docs/architecture.md, and its tests from its own name."""

import re
from pathlib import Path

import pytest
from tests.source_tree import PACKAGE, ROOT, read_quoted, read_section, read_sources

TABLES = (
    "Commands and public names",
    "Comparison of two tensors",
    "Comparison of two checkpoints",
    "Worlds: where ranks run",
    "The step by hand",
    "Tensor-parallel layers and plans",
    "Exact arithmetic",
    "Proving",
    "Frameworks and reports",
)
# Rooms of which every file has a test of its own: `exact/algebra/bound.py` has `tests/exact/algebra/test_bound.py`.
MIRRORED = (
    "exact/algebra/",
    "exact/rules/",
    "exact/engine/",
    "proving/judging/",
    "proving/running/",
    "worlds/",
    "byhand/",
    "comparison/",
    "checkpoints/",
    "parallel/",
    "cli/",
    "report/",
    "frameworks/",
    "census/",
)
# Files without a test of their own, and what tests them instead.
TESTED_ELSEWHERE = {
    "worlds/world.py": "a Protocol without code; `worlds/test_make.py` makes each kind",
    "worlds/early_access.py": "a value without logic; `worlds/test_in_flight.py` reads it",
    "exact/algebra/cut.py": "a value without logic; `exact/rules/test_cut.py` reads it",
    "exact/engine/c10d.py": "PyTorch's bindings by name; `exact/engine/test_collectives.py` calls each",
    "exact/algebra/no_bound.py": "values without logic; `exact/algebra/test_degree.py` makes each",
    "report/page/description.py": "values without logic; `report/page/test_describe.py` reads them",
    "frameworks/transformers/repro_template.py": "a text; `frameworks/transformers/test_repro.py` runs it filled in",
    "checkpoints/damage.py": "values without logic; `checkpoints/test_words.py` makes each",
    "checkpoints/checkpoint.py": "values without logic; `checkpoints/test_opening.py` reads them",
    "byhand/step.py": "values without logic; `byhand/test_one_device.py` reads them",
}


def read_features():
    """The files that the tables name, as often as they do."""
    cells = [row.split("|")[-2] for title in TABLES for row in read_section(title).splitlines() if row.startswith("| ")]
    return [name for cell in cells for name in read_quoted(cell)]


def list_files():
    return {str(p.relative_to(PACKAGE)) for p in PACKAGE.rglob("*") if p.suffix in (".py", ".cpp")}


def find_unnamed(files, named):
    """Files that stand nowhere, and names of no file or of one that stands twice."""
    return sorted(set(files) - set(named)), sorted(name for name in named if name not in files or named.count(name) > 1)


def name_test(path):
    """`worlds/call.py` is tested by `worlds/test_call.py`."""
    return str(Path(path).with_name(f"test_{Path(path).name}"))


def find_untested(files, tests, elsewhere):
    """Files with neither a test of their own nor a reason; reasons for files that are tested, or not there."""
    untested = {path for path in files if name_test(path) not in tests}
    return sorted(untested - set(elsewhere)), sorted(set(elsewhere) - untested)


def list_mirrored():
    return [path for path in read_sources() if path.startswith(MIRRORED) and not path.endswith("__init__.py")]


def list_tests():
    return {str(path.relative_to(ROOT / "tests")) for path in (ROOT / "tests").rglob("test_*.py")}


def test_every_file_stands_beside_its_feature_once():
    assert find_unnamed(list_files(), read_features()) == ([], [])


def test_a_file_without_a_feature_and_a_feature_without_a_file_are_found():
    assert find_unnamed({"a.py", "b.py"}, ["a.py", "b.py"]) == ([], [])
    assert find_unnamed({"a.py", "b.py"}, ["a.py"]) == (["b.py"], [])
    assert find_unnamed({"a.py"}, ["a.py", "b.py"]) == ([], ["b.py"])
    assert find_unnamed({"a.py"}, ["a.py", "a.py"]) == ([], ["a.py", "a.py"])


def test_every_file_has_a_test_of_its_own_or_a_reason():
    assert find_untested(list_mirrored(), list_tests(), TESTED_ELSEWHERE) == ([], [])


def test_the_tests_that_stand_elsewhere_are_there():
    for path, reason in TESTED_ELSEWHERE.items():
        named = [name for name in read_quoted(reason) if name.endswith(".py")]
        assert named, f"{path}: name the file that tests it"
        assert [name for name in named if not (ROOT / "tests" / name).is_file()] == []


def test_a_file_without_a_test_and_a_reason_without_need_are_found():
    tests = {"worlds/test_call.py"}
    assert find_untested(["worlds/call.py"], tests, {}) == ([], [])
    assert find_untested(["worlds/call.py", "worlds/gloo.py"], tests, {}) == (["worlds/gloo.py"], [])
    assert find_untested(["worlds/gloo.py"], tests, {"worlds/gloo.py": "in `x.py`"}) == ([], [])
    assert find_untested(["worlds/call.py"], tests, {"worlds/call.py": "in `x.py`"}) == ([], ["worlds/call.py"])


PAGES = ("CONTRIBUTING.md", "docs/architecture.md", "docs/testing.md")
FOLDERS = (ROOT, PACKAGE, ROOT / "tests", ROOT / "docs")


def find_dead_paths(text, folders):
    """Paths between backquotes, and links, that lead nowhere; names with a capital placeholder are not looked up."""
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if ":" not in link]
    paths = [path for path in read_quoted(text) if re.fullmatch(r"[a-z_./0-9]+(\.(py|md|toml|json|cpp)|/)", path)]
    return [path for path in (*paths, *links) if not any((folder / path).exists() for folder in folders)]


@pytest.mark.parametrize("page", PAGES)
def test_every_path_of_a_page_leads_somewhere(page):
    rooms = [path.parent for path in PACKAGE.rglob("*.py")]  # a page may name a file by its name alone
    assert find_dead_paths((ROOT / page).read_text(), [*FOLDERS, *rooms, ROOT / "tests" / "mutation"]) == []


def test_a_path_that_leads_nowhere_is_found():
    text = "see `worlds/call.py`, `worlds/absent.py`, [a](docs/exact.md), [b](absent.md), `torch.add`, `mNN_name.py`"
    assert find_dead_paths(text, FOLDERS) == ["worlds/absent.py", "absent.md"]
