"""The plugin as a user's project meets it: pytest in a process of its own, with a project of two or three tests."""

import os
import pickle
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from tests.proving import steps

from shardproof.proving.prove import prove
from shardproof.report.assertion import NotProvedError, assert_proved
from shardproof.report.text import render_text

ROOT = Path(__file__).parents[1]

PROJECT = """\
import my_training

def test_right(shardproof):
    proof = shardproof.assert_proved(my_training.step, parallelize=my_training.parallelize, devices=2, trials=1)
    assert proof.ok

def test_wrong(shardproof):
    shardproof.assert_proved(my_training.step, parallelize=my_training.scaled_gradient, devices=2, trials=1)
"""

DIRECT = """
import shardproof as sp

def test_direct():
    sp.assert_proved(my_training.step, parallelize=my_training.scaled_gradient, devices=2, trials=1)

def test_raising(shardproof):
    shardproof.assert_proved(my_training.step, parallelize=my_training.raises, devices=2, trials=1)
"""

MEND = "Sum it over the ranks once, or divide it by 2: it is reduced again, or not averaged."
FAILURE = f"step 1, gradient: up.weight: WRONG. 2 times too large. {MEND}"

LIGHT = """\
import sys

def test_light():
    assert "shardproof.pytest_plugin" in sys.modules
    heavy = {"torch", "numpy", "typer", "rich", "greenlet", "safetensors"}
    print("heavy:", sorted(heavy & set(sys.modules)))
    print("ours:", sorted(name for name in sys.modules if name.startswith("shardproof")))

def test_use(shardproof):
    print("still light:", "torch" not in sys.modules)
"""


@pytest.fixture
def run(tmp_path):
    """Run pytest on a project, with the entry point that pyproject.toml declares as the only way to the plugin."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]
    info = tmp_path / "installed" / "shardproof-0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shardproof\nVersion: 0\n")
    (info / "entry_points.txt").write_text("[pytest11]\n" + "".join(f"{k} = {v}\n" for k, v in declared.items()))
    project = tmp_path / "project"
    project.mkdir()
    shutil.copy(Path(steps.__file__), project / "my_training.py")

    def command(source, *arguments):
        (project / "test_it.py").write_text(source)
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-W", "error", *arguments],
            cwd=project,
            env=os.environ | {"PYTHONPATH": str(tmp_path / "installed"), "COLUMNS": "160"},
            capture_output=True,
            text=True,
            check=False,
        )

    return command


def test_the_report_is_a_section_of_the_failure(run):
    result = run(PROJECT, "-q")
    assert "1 failed, 1 passed" in result.stdout, result.stdout + result.stderr
    assert f"E       shardproof.NotProvedError: {FAILURE}\n" in result.stdout
    section = result.stdout.partition(" Captured shardproof call ")[2]
    assert "step 1, gradient: up.weight: WRONG\n    2 times too large." in section
    assert result.stdout.count("First causes:") == 1


def test_the_short_summary_has_the_first_cause_and_no_frame_of_ours_is_shown(run):
    result = run(PROJECT + DIRECT, "-q", "--tb=long")
    assert "3 failed, 1 passed" in result.stdout, result.stdout + result.stderr
    summary = result.stdout.partition(" short test summary info ")[2]
    for name in ("test_wrong", "test_direct"):
        assert (
            f"FAILED test_it.py::{name} - shardproof.NotProvedError: step 1, gradient: up.weight: WRONG. 2 t" in summary
        )
    assert "FAILED test_it.py::test_raising - shardproof.errors.CannotRunError: rank 1: OverflowError: more" in summary
    shown = re.findall(r"^(\S+\.py):\d+: ", result.stdout, flags=re.MULTILINE)
    assert set(shown) == {"test_it.py", "my_training.py"}
    assert "more than it can" in result.stdout.partition("The above exception was the direct cause")[0]


def test_it_works_in_the_processes_of_xdist(run):
    result = run(PROJECT, "-q", "-n", "2")
    assert "1 failed, 1 passed" in result.stdout, result.stdout + result.stderr
    assert "2 times too large." in result.stdout.partition(" Captured shardproof call ")[2]


def test_it_imports_nothing_heavy_until_a_test_uses_it(run):
    result = run(LIGHT, "-s", "-q")
    assert "2 passed" in result.stdout, result.stdout + result.stderr
    assert "heavy: []" in result.stdout
    assert "ours: ['shardproof', 'shardproof.pytest_plugin', 'shardproof.version']" in result.stdout
    assert "still light: True" in result.stdout


def test_without_the_entry_point_there_is_no_fixture(run, tmp_path):
    # The control: nothing else brings the plugin in.
    (tmp_path / "installed" / "shardproof-0.dist-info" / "entry_points.txt").write_text("")
    result = run(LIGHT, "-q", "-p", "no:shardproof")
    assert "fixture 'shardproof' not found" in result.stdout


def test_the_message_of_an_assertion_is_the_report():
    arguments = {"parallelize": steps.scaled_gradient, "devices": 2, "trials": 1}
    proof = prove(steps.step, **arguments)
    with pytest.raises(NotProvedError) as caught:
        assert_proved(steps.step, **arguments)
    assert str(caught.value) == f"{FAILURE}\n{render_text(proof)}"
    assert caught.value.proof == proof
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.proof) == (str(caught.value), proof)


def test_what_is_proved_is_returned():
    assert assert_proved(steps.step, parallelize=steps.parallelize, devices=2, trials=1).ok
