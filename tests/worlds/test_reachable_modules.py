"""The modules that a rank's code can reach: by reference, by an import in a function, through closures and objects."""

import functools
import sys
import types

import pytest

from shardproof.worlds.reachable_modules import find_reachable

SOURCES = {
    "reach_state": "rank = 0",
    "reach_other": "import reach_state\ndef f(): return reach_state.rank",
    "reach_alone": "rank = 0",
    "reach_late": "def f():\n    import reach_state\n    return reach_state.rank",
    "reach_inner": "def outer():\n    def inner():\n        from reach_state import rank\n    return inner",
    "reach_kind": "import reach_state\nclass Kind:\n    pass",
}


@pytest.fixture(autouse=True)
def modules(monkeypatch):
    for name in SOURCES:
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    for name, source in SOURCES.items():
        exec(source, sys.modules[name].__dict__)
    return sys.modules


def reached(*roots):
    return find_reachable(roots, lambda name: isinstance(name, str) and name.startswith("reach_"))


@pytest.mark.parametrize("name", ["reach_other", "reach_late", "reach_inner"])
def test_a_function_reaches_what_it_names_and_what_it_imports(modules, name):
    function = next(value for value in vars(modules[name]).values() if isinstance(value, types.FunctionType))
    assert reached(function) == {name, "reach_state"}


def test_objects_classes_closures_partials_and_containers_are_followed(modules):
    kind = modules["reach_kind"].Kind
    f = modules["reach_other"].f
    for root in (kind, kind(), {"key": [kind]}, functools.partial(print, kind), lambda: kind):
        assert reached(root) == {"reach_kind", "reach_state"}
    holder = types.SimpleNamespace(inner=(f,))
    assert reached(holder) == {"reach_other", "reach_state"}


def test_what_nothing_leads_to_is_not_reached(modules):
    assert "reach_alone" not in reached(modules["reach_other"].f, modules["reach_kind"].Kind)
    assert reached(print, 3, "reach_alone") == set()
