"""`--traceback`: nothing is shown without it."""

import pytest

from shardproof.cli.tracebacks import traceback_shown
from shardproof.errors import CannotRunError


def raise_from_a_cause():
    try:
        raise KeyError("theirs")
    except KeyError as error:
        failure = CannotRunError("rank 0: KeyError")
        failure.add_note("On rank 0: the end of its stack")
        raise failure from error


def test_an_error_is_shown_with_its_cause_and_notes_and_goes_on(capsys):
    with pytest.raises(CannotRunError), traceback_shown(True):
        raise_from_a_cause()
    shown = capsys.readouterr().err
    assert "raise KeyError" in shown
    assert "On rank 0: the end of its stack" in shown


def test_nothing_is_shown_unless_it_is_wanted(capsys):
    with pytest.raises(CannotRunError), traceback_shown(False):
        raise_from_a_cause()
    assert capsys.readouterr().err == ""
