"""Colours: where a terminal wants them, and nowhere else."""

import io

import pytest

from shardproof.report.styles import style_verdict, unstyled, wants_colour


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("stream", "environment", "wanted"),
    [
        (Terminal(), {}, True),
        (Terminal(), {"NO_COLOR": ""}, True),  # https://no-color.org: when present and not empty
        (Terminal(), {"NO_COLOR": "1"}, False),
        (Terminal(), {"TERM": "dumb"}, False),
        (io.StringIO(), {}, False),
    ],
)
def test_colours_are_for_terminals_that_nobody_has_told_not_to(stream, environment, wanted):
    assert wants_colour(stream, environment) is wanted


def test_right_wrong_and_open_have_colours_of_their_own():
    found = {style_verdict("PROVED", True), style_verdict("WRONG", False), style_verdict("VACUOUS", False)}
    assert {text.split("m")[0] for text in found} == {"\x1b[1;32", "\x1b[1;31", "\x1b[1;33"}
    assert all(text.endswith("\x1b[0m") for text in found)
    assert unstyled("WRONG", False) == "WRONG"
