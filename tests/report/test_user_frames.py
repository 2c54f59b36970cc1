"""Frames of the package are taken out of what a failing test prints; the user's stay."""

import traceback

import pytest
from tests.proving import steps

from shardproof.errors import CannotRunError
from shardproof.proving.prove import prove
from shardproof.report.assertion import assert_proved
from shardproof.report.user_frames import keep_user_frames


def misspelt(model, mesh):
    del mesh
    return model.get_submodule("upp")


def print_error(run):
    with pytest.raises(CannotRunError) as caught:
        run(steps.step, parallelize=misspelt, devices=2, trials=1)
    return "".join(traceback.format_exception(caught.value.__cause__)), caught.value


def test_the_cause_of_an_error_shows_the_users_lines_and_none_of_ours():
    told, error = print_error(assert_proved)
    assert "misspelt" in told
    assert "get_submodule" in told  # PyTorch's too, in which it was raised
    assert "/shardproof/" not in told
    assert "has no attribute" in str(error)


def test_without_it_ours_would_be_shown():
    told, _ = print_error(prove)
    assert "misspelt" in told
    assert "/shardproof/" in told


def test_errors_that_led_to_each_other_in_a_circle_end():
    first, second = CannotRunError("a"), ValueError("b")
    first.__cause__, second.__context__ = second, first
    assert keep_user_frames(first) is first
    assert first.__traceback__ is None
