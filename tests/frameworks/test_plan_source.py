"""The source of a sharding: files read, functions found, entries with their lines; nothing is run."""

import functools
import json

import pytest
from tests.proving import steps

from shardproof.frameworks.plan_source import (
    PlanEntry,
    find_plan_source,
    read_entries,
    read_file_source,
    read_function_source,
)
from shardproof.frameworks.specification import Specification

PLAN = """\
raise SystemExit("never run")
HEAD = {"head": 1, 3: 4, **{}}
def parallelize(model, mesh):
    plan = {
        "blocks.*.up": 1,
    }
    for name in ("q", "k"):
        plan[f"blocks.*.{name}"] = 2
    plan |= {f"{name}.out": 3 for name in ("a", "b")}
    return plan
"""


def test_keys_of_dictionaries_are_entries_with_their_lines(tmp_path):
    path = tmp_path / "plan.py"
    path.write_text(PLAN)
    found = [(entry.pattern, entry.line) for entry in read_entries(path)]
    assert found == [("head", 2), ("blocks.*.up", 5), ("blocks.*.*", 8), ("*.out", 9)]


def test_keys_of_json_have_their_lines_and_values_are_no_keys(tmp_path):
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({"a.*.b": "colwise", 'q"x': "rowwise"}, indent=1))
    assert read_entries(path) == (PlanEntry(pattern="a.*.b", line=2), PlanEntry(pattern='q"x', line=3))


@pytest.mark.parametrize("text", ["def (:", "x = '\0'", ""])
def test_a_file_that_cannot_be_parsed_has_no_entries(tmp_path, text):
    path = tmp_path / "plan.py"
    path.write_text(text)
    assert read_entries(path) == ()


class Sharding:
    def __call__(self, model, mesh):
        return model, mesh


def decorated(function):
    @functools.wraps(function)
    def outer(*arguments):
        return function(*arguments)

    return outer


@pytest.mark.parametrize(
    ("function", "code"),
    [
        (steps.parallelize, steps.parallelize.__code__),
        (functools.partial(functools.partial(steps.parallelize), mesh=None), steps.parallelize.__code__),
        (decorated(steps.parallelize), steps.parallelize.__code__),
        (Sharding(), Sharding.__call__.__code__),
        (Sharding().__call__, Sharding.__call__.__code__),
    ],
)
def test_the_function_behind_what_is_called(function, code):
    source = read_function_source(function)
    assert (str(source.path), source.line) == (code.co_filename, code.co_firstlineno)


@pytest.mark.parametrize("function", [print, len, None, eval("lambda model, mesh: model")])
def test_what_has_no_file_has_no_source(function):
    assert read_function_source(function) is None


def test_a_file_that_is_not_there_has_no_source(tmp_path):
    assert read_file_source(tmp_path / "absent.json") is None


@pytest.mark.parametrize(
    ("plan", "line", "entries"),
    [("plan.json", None, [("a.*", 1)]), ("plan.py:PLAN", 2, [("b.*", 3)]), ("plan.py:OTHER", None, [("b.*", 3)])],
)
def test_the_plan_of_an_hf_model_that_is_given(tmp_path, monkeypatch, plan, line, entries):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plan.json").write_text('{"a.*": "colwise"}')
    (tmp_path / "plan.py").write_text("PLANS = 3\nPLAN = {\n    'b.*': 'colwise'}\n")
    source = find_plan_source(*_own_plan(plan=plan))
    assert source.line == line
    assert [(entry.pattern, entry.line) for entry in source.entries] == entries


def test_the_own_plan_of_an_hf_model_stands_in_the_file_of_its_configuration():
    source = find_plan_source(*_own_plan())
    assert source.path.name == "configuration_qwen3.py"
    found = {entry.pattern: entry.line for entry in source.entries}
    lines = source.path.read_text().splitlines()
    assert "q_norm" in lines[found["layers.*.self_attn.q_norm"] - 1]


def test_the_function_of_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "from tests.proving.steps import step\n\n\ndef parallelize(model, mesh):\n    return model\n"
    )
    specification = Specification(step="mine.py:step", parallelize="mine.py:parallelize")
    assert find_plan_source(specification, specification.load()).line == 4
    specification = Specification(step="mine.py:step", candidate="mine.py:parallelize")
    assert find_plan_source(specification, specification.load()).line == 4


class _Target:
    candidate = None

    def __init__(self, parallelize):
        self.parallelize = parallelize


def _own_plan(**settings):
    from shardproof.frameworks.transformers.plans import OwnPlan, PlanChange

    return Specification(step="hf:qwen3", **settings), _Target(OwnPlan(change=PlanChange()))
