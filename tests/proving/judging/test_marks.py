"""First causes among findings, findings that the user allows, and the lines of first causes."""

from dataclasses import replace

import pytest

from shardproof.proving.cause import Cause, CauseKind
from shardproof.proving.findings import Finding, Verdict
from shardproof.proving.judging.marks import mark_allowed, mark_roots, mark_source_lines, unmark_consequences
from shardproof.proving.records import Key, Phase


def finding(phase, name="w", *, step=0, verdict=Verdict.WRONG, root=False):
    return Finding(key=Key(step, phase, name), verdict=verdict, root=root)


def roots(*findings):
    return [one.root for one in mark_roots(findings)]


@pytest.mark.parametrize("phase", [Phase.OUTPUT, Phase.INPUT, Phase.LOSS, Phase.OUTPUT_GRADIENT, Phase.INPUT_GRADIENT])
def test_all_that_comes_after_a_wrong_activation_or_loss_follows_from_it(phase):
    later = [finding(Phase.GRADIENT), finding(Phase.NORM, "norm"), finding(Phase.UPDATE), finding(Phase.LOSS, step=1)]
    assert roots(finding(phase, "a"), *later) == [True, False, False, False, False]


@pytest.mark.parametrize(
    ("phase", "name", "follows"),
    [
        (Phase.GRADIENT, "block.down.weight", True),
        (Phase.UPDATE, "block.down.weight", True),
        (Phase.STATE, "block.down.weight/exp_avg", True),
        (Phase.GRADIENT, "block.down.bias", False),
        (Phase.OUTPUT, "block.down", True),
        (Phase.OUTPUT, "block[1]", True),
        (Phase.OUTPUT, "model", True),
        (Phase.LOSS, "loss", True),
        (Phase.OUTPUT, "block.up", False),
        (Phase.OUTPUT, "block.do", False),
        (Phase.NORM, "gradient norm", False),
    ],
)
def test_what_is_computed_from_a_parameter_that_is_held_wrongly_follows_from_that(phase, name, follows):
    lost = replace(finding(Phase.INITIAL, "block.down.weight", root=True), cause=Cause(kind=CauseKind.LOST))
    later = finding(phase, name, root=True)
    assert [one.root for one in unmark_consequences([lost, later])] == [True, not follows]
    for kind in (CauseKind.ZEROED, CauseKind.HELD_TWICE, CauseKind.OUT_OF_PLACE):
        otherwise = replace(lost, cause=Cause(kind=kind))
        assert [one.root for one in unmark_consequences([otherwise, later])] == [True, not follows]
    right = replace(lost, verdict=Verdict.PROVED, cause=None)
    assert [one.root for one in unmark_consequences([right, later])] == [True, True]
    of_a_gradient = replace(finding(Phase.UPDATE, "block.down.weight", root=True), cause=lost.cause)
    assert [one.root for one in unmark_consequences([of_a_gradient, later])] == [True, True]
    drawn = replace(lost, cause=Cause(kind=CauseKind.INITIAL_SPREAD))
    assert [one.root for one in unmark_consequences([drawn, later])] == [True, True]


def test_gradients_do_not_follow_from_each_other():
    assert roots(finding(Phase.GRADIENT, "a"), finding(Phase.GRADIENT, "b")) == [True, True]


@pytest.mark.parametrize("phase", [Phase.CLIPPED, Phase.STATE, Phase.UPDATE])
def test_an_update_follows_from_its_own_gradient_alone(phase):
    gradient = finding(Phase.GRADIENT, "a")
    assert roots(gradient, finding(phase, "a/exp_avg")) == [True, False]
    assert roots(gradient, finding(phase, "b/exp_avg")) == [True, True]


def test_the_norm_follows_from_any_gradient_and_everything_clipped_from_the_norm():
    assert roots(finding(Phase.GRADIENT, "a"), finding(Phase.NORM, "gradient norm")) == [True, False]
    assert roots(finding(Phase.NORM, "gradient norm"), finding(Phase.CLIPPED, "b")) == [True, False]
    assert roots(finding(Phase.NORM, "gradient norm"), finding(Phase.GRADIENT, "b")) == [True, True]


def test_all_later_steps_follow_and_the_same_step_does_not():
    assert roots(finding(Phase.UPDATE, "a"), finding(Phase.UPDATE, "b")) == [True, True]
    assert roots(finding(Phase.UPDATE, "a"), finding(Phase.GRADIENT, "b", step=1)) == [True, False]


def test_all_of_a_later_step_follows_whatever_else_is_wrong_in_it():
    later = [finding(Phase.GRADIENT, name, step=1) for name in "bcd"]
    assert roots(finding(Phase.GRADIENT, "a"), *later) == [True, False, False, False]
    assert roots(finding(Phase.OUTPUT, "m"), *later, finding(Phase.OUTPUT, "n", step=1)) == [True, *[False] * 4]


def test_a_wrong_activation_after_a_wrong_gradient_pollutes_the_rest_of_the_step():
    found = roots(finding(Phase.GRADIENT, "a"), finding(Phase.OUTPUT, "m"), finding(Phase.GRADIENT, "b"))
    assert found == [True, True, False]


@pytest.mark.parametrize("verdict", [Verdict.PROVED, Verdict.ROUNDING, Verdict.DRAWN])
def test_what_is_ok_is_no_first_cause_and_pollutes_nothing(verdict):
    assert roots(finding(Phase.OUTPUT, "m", verdict=verdict), finding(Phase.GRADIENT)) == [False, True]


@pytest.mark.parametrize("verdict", [Verdict.UNDECIDED, Verdict.VACUOUS, Verdict.UNSUPPORTED])
@pytest.mark.parametrize("phase", [Phase.OUTPUT, Phase.LOSS, Phase.OUTPUT_GRADIENT])
def test_what_is_not_wrong_hides_nothing_that_is(verdict, phase):
    doubtful, wrong = finding(phase, "a", verdict=verdict), finding(Phase.GRADIENT, "b")
    assert roots(doubtful, wrong, finding(Phase.UPDATE, "b")) == [True, True, False]
    assert roots(doubtful, finding(Phase.GRADIENT, "b", verdict=verdict), wrong) == [True, False, True]
    assert roots(doubtful, finding(Phase.GRADIENT, "b", step=1)) == [True, True]


def test_what_is_not_wrong_follows_from_what_is():
    assert roots(finding(Phase.LOSS, "loss"), finding(Phase.GRADIENT, "b", verdict=Verdict.UNDECIDED)) == [True, False]


def test_an_update_follows_from_its_own_state_or_clipped_gradient():
    for phase, name in ((Phase.STATE, "a/exp_avg"), (Phase.CLIPPED, "a")):
        assert roots(finding(phase, name), finding(Phase.UPDATE, "a")) == [True, False]
        assert roots(finding(phase, name), finding(Phase.UPDATE, "b")) == [True, True]


@pytest.mark.parametrize("verdict", [Verdict.WRONG, Verdict.UNDECIDED, Verdict.VACUOUS, Verdict.UNSUPPORTED])
def test_whatever_is_not_ok_may_be_a_first_cause(verdict):
    assert roots(finding(Phase.GRADIENT, verdict=verdict)) == [True]


# Allowed --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "allowed"),
    [
        ("WRONG gradient w", True),
        ("WRONG *", True),
        ("* gradient *", True),
        ("VACUOUS gradient w", False),
        ("WRONG gradient", False),
        ("wrong gradient w", False),
        ("WRONG gradient w.bias", False),
    ],
)
def test_a_pattern_is_for_verdict_phase_and_name(pattern, allowed):
    (marked,) = mark_allowed([finding(Phase.GRADIENT)], [pattern])
    assert marked.allowed == (pattern if allowed else "")
    assert marked.failed is not allowed


def test_the_first_pattern_that_fits_is_named_and_what_is_ok_needs_none():
    patterns = ["VACUOUS *", "WRONG *", "*"]
    wrong, proved = mark_allowed([finding(Phase.GRADIENT), finding(Phase.UPDATE, verdict=Verdict.PROVED)], patterns)
    assert (wrong.allowed, proved.allowed) == ("WRONG *", "")


# Lines ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phase", "name", "module"),
    [
        (Phase.OUTPUT, "layers.0/1", "layers.0"),
        (Phase.OUTPUT, "layers.0[2]", "layers.0"),
        (Phase.GRADIENT, "layers.0.weight", "layers.0"),
        (Phase.STATE, "layers.0.weight/exp_avg", "layers.0"),
        (Phase.INITIAL, "layers.0.weight", "layers.0"),
        (Phase.BUFFER, "layers.0.running_mean", "layers.0"),
        (Phase.GRADIENT, "weight", ""),
        (Phase.NORM, "layers.0", None),
        (Phase.LOSS, "layers.0", None),
    ],
)
def test_a_first_cause_has_the_line_of_its_module(phase, name, module):
    lines = {"layers.0": "a.py:1 in f", "": "a.py:2 in g"}
    root, other = mark_source_lines([finding(phase, name, root=True), finding(phase, name)], lines)
    expected = {"layers.0": "a.py:1 in f", "": "a.py:2 in g", None: "a.py:2 in g"}
    assert root.source_line == expected[module]
    assert other.source_line == ""
