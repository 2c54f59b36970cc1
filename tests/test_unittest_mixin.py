"""The mixin as a user's project meets it: unittest in a process of its own, and what it prints."""

import os
import shutil
import subprocess
import sys
import unittest
from pathlib import Path

import pytest
from tests.proving import steps

import shardproof
from shardproof import unittest_mixin
from shardproof.errors import CannotRunError

PROJECT = """\
import unittest

import my_training
import shardproof

class TestMine(shardproof.ProofTestMixin, unittest.TestCase):
    world_size = 2

    def test_right(self):
        self.assertTrue(self.assertProved(my_training.step, parallelize=my_training.parallelize, trials=1).ok)

    def test_wrong(self):
        self.assertProved(my_training.step, parallelize=my_training.scaled_gradient, trials=1)

if __name__ == "__main__":
    unittest.main()
"""


def test_a_failure_is_the_report_below_the_line_of_the_test(tmp_path):
    shutil.copy(Path(steps.__file__), tmp_path / "my_training.py")
    (tmp_path / "test_mine.py").write_text(PROJECT)
    result = subprocess.run(
        [sys.executable, "-W", "error", "test_mine.py"],
        cwd=tmp_path,
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Ran 2 tests" in result.stderr, result.stderr
    assert "FAILED (failures=1)" in result.stderr
    failure = result.stderr.partition("FAIL: test_wrong")[2]
    assert "AssertionError: step 1, gradient: up.weight: WRONG. 2 times too large. Sum it over the ranks" in failure
    assert " not averaged.\nNOT PROVED: " in failure
    assert failure.count("  File ") == 1  # of the test alone
    assert "test_mine.py" in failure


@pytest.fixture
def settings(monkeypatch):
    given = {}
    monkeypatch.setattr(unittest_mixin, "assert_proved", lambda _step, **settings: given.update(settings) or "proof")
    return given


class Four(shardproof.ProofTestMixin, unittest.TestCase):
    world_size = 4


class Mesh(Four):
    mesh = {"dp": 2, "tp": 2}


@pytest.mark.parametrize(
    ("case", "given", "expected"),
    [
        (Four, {}, {"devices": 4}),
        (Mesh, {}, {"mesh": {"dp": 2, "tp": 2}}),
        (Four, {"devices": 3}, {"devices": 3}),
        (Mesh, {"devices": 3}, {"devices": 3}),
        (Four, {"mesh": {"tp": 5}, "trials": 1}, {"mesh": {"tp": 5}, "trials": 1}),
    ],
)
def test_the_class_says_on_how_many_ranks_and_a_test_may_say_otherwise(settings, case, given, expected):
    assert case().assertProved(None, **given) == "proof"
    assert settings == expected


def test_it_fails_as_the_test_case_does_and_what_cannot_run_is_an_error():
    with pytest.raises(AssertionError) as caught:
        Four().assertProved(steps.step, parallelize=steps.scaled_gradient, devices=2, trials=1)
    assert type(caught.value) is Four.failureException
    with pytest.raises(CannotRunError):
        Four().assertProved(steps.step, parallelize=None)
