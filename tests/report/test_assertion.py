"""A proof as an assertion: its message is the report, and it survives pickling as pytest-xdist needs."""

import pickle

import pytest
from tests.report.proofs import finding, proof

from shardproof.proving.findings import Verdict
from shardproof.report import assertion
from shardproof.report.assertion import NotProvedError, assert_proved
from shardproof.report.text import render_text

WRONG, RIGHT = proof(finding(verdict=Verdict.WRONG, root=True)), proof(finding())


def test_what_is_proved_is_returned(monkeypatch):
    monkeypatch.setattr(assertion, "prove", lambda _step, **settings: (RIGHT, settings)[0])
    assert assert_proved(None, devices=2) is RIGHT


def test_what_is_not_is_an_assertion_error_with_the_report(monkeypatch):
    monkeypatch.setattr(assertion, "prove", lambda _step, **_settings: WRONG)
    with pytest.raises(AssertionError) as caught:
        assert_proved(None, devices=2)
    assert str(caught.value) == render_text(WRONG)
    assert caught.value.proof is WRONG


def test_it_survives_pickling():
    error = pickle.loads(pickle.dumps(NotProvedError("report", RIGHT)))
    assert (str(error), error.proof) == ("report", RIGHT)
