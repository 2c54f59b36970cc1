"""Planted bugs are killed at their place and for their reason; a change without effect survives."""

from dataclasses import replace

import pytest
from benchmarks.mutants.baselines import NAMES
from benchmarks.mutants.block import Sizes
from benchmarks.mutants.bug import Bug, load_bugs
from benchmarks.mutants.correct import configurations
from benchmarks.mutants.correct.configuration import sharded
from benchmarks.mutants.lines import Lines, unchanged
from benchmarks.mutants.matrix import format_row, run_bug
from benchmarks.mutants.sharded import shard
from benchmarks.mutants.steps import make_step
from benchmarks.mutants.tried import try_configuration

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


# One of each kind, the quick ones; `make mutants` runs them all.
SOME = [
    "by hand, sizes 1, tied, SGD, 2 ranks",
    "padded vocabulary, tied, 3 ranks",
    "own sequence-parallel training, clipped, AdamW, 2 ranks",
    "data parallel, updated by parts, 2 ranks",
    "MLP by styles: row output scattered, then gathered, 3 ranks",
    "loss: smoothed cross-entropy, 3 ranks",
    "attention: rope, biases, 2 ranks",
    "split sequences, RMSNorm, tied, 2 ranks",
    "Adam, amsgrad, DTensor, 4 ranks",
    "dtypes: a normed model of bfloat16, 2 ranks",
]


@pytest.mark.parametrize("name", SOME)
def test_a_correct_configuration_is_proved(name):
    tried = try_configuration(next(one for one in configurations() if one.name == name))
    assert not tried.alarm


def test_there_are_more_than_300_and_each_has_a_name_of_its_own():
    assert len({one.name for one in configurations()}) > 300


def test_a_configuration_that_is_not_correct_is_a_false_alarm_and_says_where():
    step = make_step(Sizes(), steps=1)
    wrong = sharded("a bias added on every rank", step, shard(BUGS["M10"].lines), 2)
    tried = try_configuration(wrong)
    assert "WRONG step 1, output layers.0.attention.out" in tried.alarm
    assert not tried.undecided


def test_a_configuration_that_cannot_be_run_is_a_false_alarm():
    broken = sharded("no module", make_step(Sizes()), lambda _model, _mesh: None, 2)
    tried = try_configuration(broken)
    assert tried.alarm.startswith("not run: ")
    assert not tried.undecided


def test_each_bug_changes_one_known_line():
    with pytest.raises(ValueError, match="changes the line 'nowhere'"):
        replace(NO_BUG, line="nowhere", change=unchanged)
    assert len(BUGS) == len(load_bugs())
