"""Mutants of a module of the package: a wrong one is killed, a right one survives, one that never ends is ended."""

import json
import subprocess
import sys

from tests.source_tree import PACKAGE, ROOT

PATH = PACKAGE / "errors.py"
SOURCE = PATH.read_text()
SOURCES = {
    "survived": SOURCE,
    "killed": SOURCE.replace("(ValueError)", "(KeyError)"),
    "killed as it is imported": SOURCE + "\nraise OSError",
    "timed out": SOURCE + "\nwhile True:\n    pass\n",
}
TEST = """
from shardproof.errors import CannotRunError

def test_bad_input_is_a_value_error():
    assert issubclass(CannotRunError, ValueError)
    assert not issubclass(CannotRunError, KeyError)
"""
SCRIPT = """
import json, sys
from pathlib import Path
from tests.mutation.runs import Tests, run_baseline, run_sources

path, test, sources = json.loads(sys.stdin.read())
tests = Tests(module="shardproof.errors", path=Path(path), arguments=(test,))
baseline = run_baseline(tests)
fates = list(run_sources(tests, sources, timeout=20 if baseline.passed else 0, jobs=4))
print(json.dumps([baseline.passed, fates]))
"""


def run(tmp_path, test, sources):
    """In a process of its own: it forks, and that is not for a process that has threads."""
    assert len(set(sources)) == len(sources)
    (tmp_path / "test_it.py").write_text(test)
    given = json.dumps([str(PATH), str(tmp_path / "test_it.py"), sources])
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=True, cwd=ROOT)
    return json.loads(done.stdout)


def test_each_mutant_has_its_fate_in_order(tmp_path):
    passed, fates = run(tmp_path, TEST, list(SOURCES.values()))
    assert passed
    assert fates == ["survived", "killed", "killed", "timed out"]


def test_tests_that_fail_on_the_module_as_it_is_are_no_baseline(tmp_path):
    assert run(tmp_path, TEST.replace("ValueError)", "OSError)"), []) == [False, []]


def test_no_tests_are_no_baseline(tmp_path):
    assert run(tmp_path, "", []) == [False, []]
