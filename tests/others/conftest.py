"""Proofs of other libraries' code: each answer is a row of the table in docs/others.md."""

import json
from importlib.metadata import version
from pathlib import Path

import pytest

import shardproof as sp
from shardproof.report.text import render_text

PAGE = Path(__file__).parents[2] / "docs" / "others.md"
START = "<!-- the table starts here -->\n"
HEAD = "| library | what is run | planted bug | answer |\n|---|---|---|---|\n"


class Answers:
    """Proves steps, and notes each answer under the library that the test's module names."""

    def __init__(self, module, note):
        self._library, self._note = f"{module.LIBRARY} {version(module.LIBRARY).partition('+')[0]}", note

    def proves(self, what, step, **settings):
        """Assert that the library's code is right, and note what the report says first."""
        __tracebackhide__ = True
        proof = sp.assert_proved(step, **settings)
        self._add(what, "", render_text(proof).partition("\n")[0])
        return proof

    def catches(self, what, planted, named, step, **settings):
        """Assert that the first of the first causes is described with the words `named`, and note it."""
        __tracebackhide__ = True
        proof = sp.prove(step, **({"trials": 1} | settings))
        assert not proof.ok
        described = [sp.describe(root) for root in proof.roots]
        assert named in described[0], described
        self._add(what, planted, described[0])
        return proof

    def _add(self, *cells):
        self._note("row", json.dumps([self._library, *cells]))


@pytest.fixture
def answers(request, record_property):
    return Answers(request.module, record_property)


def pytest_addoption(parser):
    parser.addoption("--docs", action="store_true", help="write the table of docs/others.md, if all tests passed")


def pytest_collection_modifyitems(items):
    for item in items:
        item.add_marker(pytest.mark.slow)


def pytest_terminal_summary(terminalreporter, exitstatus, config):
    passed = sorted(terminalreporter.stats.get("passed", ()), key=lambda report: report.location)
    rows = [json.loads(row) for report in passed for name, row in report.user_properties if name == "row"]
    lines = [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows]
    for line in lines:
        terminalreporter.write_line(line)
    if config.getoption("--docs") and exitstatus == 0:
        PAGE.write_text(PAGE.read_text().partition(START)[0] + START + HEAD + "".join(f"{line}\n" for line in lines))
