"""The command line as a whole: its commands, its exit codes, and an error as one line on stderr."""

import sys

import pytest
import typer.main
from typer.testing import CliRunner

from shardproof.cli import app
from shardproof.cli.output import Exit
from shardproof.errors import CannotRunError
from shardproof.version import __version__


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command line in this process; return its exit code, stdout and stderr."""

    def main(*arguments):
        monkeypatch.setattr(sys, "argv", ["shardproof", *arguments])
        with pytest.raises(SystemExit) as end:
            app.main()
        printed = capsys.readouterr()
        return end.value.code or 0, printed.out, printed.err

    return main


@pytest.fixture
def outcome(monkeypatch):
    """Make `shardproof outcome` a command that returns a value or raises an error."""

    def add(value):
        def command():
            if isinstance(value, Exception):
                raise value
            return value

        monkeypatch.setattr(app.app, "registered_commands", [*app.app.registered_commands])
        app.app.command("outcome")(command)

    return add


def test_help_names_every_command(run):
    code, out, err = run("--help")
    assert (code, err) == (0, "")
    assert [name for name in ("walkthrough", "compare", "prove", "check") if name not in out] == []


@pytest.mark.parametrize("command", ["walkthrough", "compare", "prove", "check"])
def test_every_command_has_help(run, command):
    code, out, err = run(command, "--help")
    assert (code, err) == (0, "")
    assert "--format" in out


@pytest.mark.parametrize("code", list(Exit))
def test_what_a_command_returns_is_the_exit_code(run, outcome, code):
    outcome(code)
    assert run("outcome") == (code, "", "")


def test_an_error_is_one_line_and_exit_code_2(run, outcome):
    outcome(CannotRunError("first line\n  second line"))
    assert run("outcome") == (2, "", "shardproof: error: first line second line\n")


def test_an_error_of_ours_is_not_hidden(outcome, monkeypatch):
    outcome(ZeroDivisionError("a bug"))
    monkeypatch.setattr(sys, "argv", ["shardproof", "outcome"])
    with pytest.raises(ZeroDivisionError):
        app.main()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing"], "nothing"),
        (["prove"], "STEP"),
        (["prove", "a.py:b", "--trials", "many"], "--trials"),
        (["prove", "a.py:b", "--format", "xml"], "xml"),
        (["check"], "CERTIFICATE"),
        (["check", "a.json", "--format", "xml"], "xml"),
        (["compare", "a"], "EXPECTED"),
    ],
)
def test_a_wrong_option_is_one_line_and_exit_code_2(run, arguments, said):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("shardproof: error: ")
    assert said in err
    assert err.count("\n") == 1


def test_the_version_is_printed(run):
    assert run("--version") == (0, f"shardproof {__version__}\n", "")


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_has_two_names_and_examples(run, option):
    code, out, _ = run("prove", option)
    assert code == 0
    assert "shardproof prove hf:llama --devices 2" in out


def test_no_help_text_loses_what_stands_in_brackets(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERMINAL_WIDTH", "200")
    group = typer.main.get_command(app.app)
    checked = 0
    for name, command in group.commands.items():
        printed = CliRunner().invoke(app.app, [name, "--help"]).output
        shown = "".join(c for c in printed if c.isalnum() or c in "[]'")
        for parameter in command.params:
            said = (getattr(parameter, "help", None) or "").replace("\\[", "[")
            for word in said.split():
                assert "".join(c for c in word if c.isalnum() or c in "[]'") in shown, (name, word)
                checked += "[" in word
    assert checked >= 2


def test_completion_is_offered():
    assert "--show-completion" in CliRunner().invoke(app.app, ["--help"]).output
