"""A proof as an assertion: its message is the report, and it survives pickling as pytest-xdist needs."""

import pickle

import pytest
from tests.report.proofs import finding, proof

import shardproof
from shardproof.proving.cause import Cause, CauseKind, Mend
from shardproof.proving.findings import Verdict
from shardproof.report import assertion
from shardproof.report.assertion import NotProvedError, assert_proved, tell_failure
from shardproof.report.text import render_text

WRONG, RIGHT = proof(finding(verdict=Verdict.WRONG, root=True)), proof(finding())


def test_what_is_proved_is_returned(monkeypatch):
    monkeypatch.setattr(assertion, "prove", lambda _step, **settings: (RIGHT, settings)[0])
    assert assert_proved(None, devices=2) is RIGHT


def test_what_is_not_is_an_assertion_error_with_the_report(monkeypatch):
    monkeypatch.setattr(assertion, "prove", lambda _step, **_settings: WRONG)
    with pytest.raises(AssertionError) as caught:
        assert_proved(None, devices=2)
    assert str(caught.value) == f"{tell_failure(WRONG)}\n{render_text(WRONG)}"
    assert caught.value.proof is WRONG


def test_it_survives_pickling():
    error = pickle.loads(pickle.dumps(NotProvedError("report", RIGHT)))
    assert (str(error), error.proof) == ("report", RIGHT)


def test_a_failure_in_one_line_is_the_first_cause_what_would_mend_it_and_how_many_more():
    cause = Cause(kind=CauseKind.MISSING_ALL_REDUCE, axes=("tp",), mend=Mend.ALL_REDUCE_GRADIENT)
    one = finding("up.weight", Verdict.WRONG, root=True, cause=cause)
    said = tell_failure(proof(one))
    assert said == (
        "step 1, gradient: up.weight: WRONG. ranks hold partial values whose sum is right: an all-reduce is missing. "
        "An all-reduce of the gradient over tp is missing in the backward."
    )
    other = finding("b", Verdict.WRONG, root=True, cause=Cause(kind=CauseKind.ZERO_EVERYWHERE))
    assert tell_failure(proof(one, other)) == f"{said} And 1 more first cause."


def test_a_proof_of_nothing_fails_by_its_answer():
    assert tell_failure(proof()) == "NOT PROVED: 0 tensors: "


def test_users_see_the_name_that_they_import():
    assert NotProvedError.__module__ == "shardproof"
    assert shardproof.NotProvedError is NotProvedError
