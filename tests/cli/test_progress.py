"""A proof tells what it is doing: to a caller that asks, and to a terminal; nothing of it reaches a file or a pipe."""

import io
import sys

from tests.proving import steps

from shardproof.cli.progress import progress_shown
from shardproof.proving.prove import prove


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_caller_is_told_of_every_part():
    told = []
    prove(steps.make_step(), parallelize=steps.parallelize, devices=2, trials=2, tell=told.append)
    assert told == [
        "the step twice on one device: is it the same?",
        "trial 1 of 2",
        "1 more trial",
        "the numbers in float32",
    ]


def test_a_terminal_is_told_and_tidied_up(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    with progress_shown() as tell:
        tell("trial [1] of 2")
    shown = sys.stderr.getvalue()
    assert "trial [1] of 2 (0 s)" in shown
    assert shown.endswith(("\x1b[2K", "\x1b[?25h")) or "\x1b[2K" in shown


def test_nobody_else_is(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with progress_shown() as tell:
        assert tell is None
    assert sys.stderr.getvalue() == ""
