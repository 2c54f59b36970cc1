"""Planted bugs are killed at their place and for their reason; a change without effect survives."""

from dataclasses import replace

import pytest
from benchmarks.mutants.baselines import NAMES
from benchmarks.mutants.bug import Bug, load_bugs
from benchmarks.mutants.correct import configurations
from benchmarks.mutants.lines import Lines, unchanged
from benchmarks.mutants.matrix import format_row, run_bug

BUGS = {bug.id: bug for bug in load_bugs()}
NO_BUG = Bug(
    id="M00", name="no-bug", phase="-", seen_in="", line="row_output", change=Lines().row_output, root="", cause=""
)


@pytest.mark.parametrize("name", ["M01", "M10", "M12", "M21", "M23", "M41"])
def test_a_bug_is_killed_at_its_place_and_for_its_reason(name):
    row = run_bug(BUGS[name], baselines=False)
    assert row.killed
    assert row.root_right
    assert row.cause_right in (True, None)


def test_a_change_without_effect_is_reported_as_survived():
    row = run_bug(NO_BUG)
    assert not row.killed
    assert not row.refused
    assert "SURVIVED" in format_row(row)
    assert not row.baselines["counts"]
    assert not row.baselines["1e-2"]


def test_a_bug_expected_elsewhere_is_not_called_right():
    row = run_bug(replace(BUGS["M10"], root="output norm", cause="shards in another order"), baselines=False)
    assert row.killed
    assert not row.root_right
    assert row.cause_right is False


def test_baselines_see_a_missing_reduction_and_its_missing_collective():
    seen = run_bug(BUGS["M01"]).baselines
    assert tuple(seen) == NAMES
    assert seen["loss"]
    assert seen["counts"]


def test_fused_projections_cut_in_their_own_order_are_proved():
    first = next(configurations())
    assert first.prove().ok


def test_each_bug_changes_one_known_line():
    with pytest.raises(ValueError, match="changes the line 'nowhere'"):
        replace(NO_BUG, line="nowhere", change=unchanged)
    assert len(BUGS) == len(load_bugs())
