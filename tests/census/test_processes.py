"""A process for each case: its result, its death, its time and its memory; the others go on."""

import os
import sys

import pytest
from tests.census.workers import work

from shardproof.census.processes import Limits, run_cases
from shardproof.census.results import Case, Outcome

pytestmark = pytest.mark.processes


def run(*kinds, **limits):
    return {one.case.kind: one for one in run_cases([Case(kind=kind) for kind in kinds], Limits(**limits), work)}


def test_each_case_has_a_process_of_its_own_and_a_dead_one_stops_no_other():
    results = run("a", "dies", "b", jobs=2)
    assert {kind: one.outcome for kind, one in results.items()} == {"a": "PROVED", "dies": "DIED", "b": "PROVED"}
    assert results["dies"].said == "the process ended with exit code 7"
    assert len({results["a"].said, results["b"].said, str(os.getpid())}) == 3


def test_a_case_that_takes_too_long_is_given_up():
    results = run("slow", seconds=0.5)
    assert results["slow"].outcome is Outcome.TIMEOUT
    assert results["slow"].said == "not done after 0.5 s"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory of a process by its data")
def test_a_case_that_takes_too_much_memory_fails_alone():
    assert run("large", memory=2.0)["large"].outcome is Outcome.MEMORY
    assert run("large", memory=16.0)["large"].outcome is Outcome.PROVED
