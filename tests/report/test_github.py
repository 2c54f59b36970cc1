"""GitHub's format: what the runner reads as commands, and that no name can write one."""

import re
from pathlib import Path

import pytest
from tests.report.proofs import finding, proof

from shardproof.frameworks.plan_source import read_function_source
from shardproof.proving.cause import Cause, CauseKind
from shardproof.proving.findings import Verdict
from shardproof.report.github import render_github, write_command

HERE = Path(__file__)


def parallelize(model, mesh):
    return {"blocks.*.up": "column", "head": "row"} and (model, mesh)


SOURCE = read_function_source(parallelize)
START = parallelize.__code__.co_firstlineno


def unescape(text, *, property_=False):
    pairs = {"%0D": "\r", "%0A": "\n", **({"%3A": ":", "%2C": ","} if property_ else {}), "%25": "%"}
    return re.sub("|".join(pairs), lambda found: pairs[found[0]], text)


def read_commands(log):
    """The commands that the runner reads from a log, as its ActionCommand.cs does: name, properties, message."""
    commands, stopped = [], None
    for line in log.splitlines():
        found = re.match(r"\s*::([^ :]+)(?: (.*?))?::(.*)$", line)
        if stopped is not None:
            stopped = None if found is not None and found[1] == stopped else stopped
        elif found is not None and found[1] == "stop-commands":
            stopped = found[3]
        elif found is not None:
            pairs = (pair.partition("=") for pair in (found[2] or "").split(",") if pair)
            properties = {key: unescape(value, property_=True) for key, _, value in pairs}
            commands.append((found[1], properties, unescape(found[3])))
        elif "##[" in line:
            commands.append(("old style", {}, line))
    assert stopped is None
    return commands


def render(*findings, source=SOURCE, root=HERE.parent, **settings):
    return render_github(proof(*findings, **settings), source=source, root=root)


def wrong(name, **changes):
    return finding(name, Verdict.WRONG, root=True, **changes)


def test_a_first_cause_is_an_error_at_the_entry_of_the_plan():
    cause = Cause(kind=CauseKind.ZERO_EVERYWHERE)
    log = render(finding("a"), wrong("blocks.3.up.weight", cause=cause))
    assert read_commands(log) == [
        (
            "error",
            {
                "file": HERE.name,
                "line": str(START + 1),
                "title": "shardproof: step 1, gradient: blocks.3.up.weight: WRONG",
            },
            "zero everywhere.",
        )
    ]
    assert "NOT PROVED: 2 tensors: 1 PROVED, 1 WRONG\n" in log  # the report stands above


def test_without_a_known_line_there_is_no_file():
    (command,) = read_commands(render(wrong("blocks.3.up.weight"), source=None))
    assert set(command[1]) == {"title"}


def test_what_is_proved_is_a_notice():
    assert read_commands(render(finding("a"))) == [
        ("notice", {"title": "shardproof"}, "PROVED: 1 tensors: 1 PROVED"),
    ]


def test_a_proof_of_nothing_is_an_error():
    assert read_commands(render()) == [("error", {"title": "shardproof"}, "NOT PROVED: 0 tensors: ")]


def test_no_more_than_ten_annotations():
    names = ["n" * length for length in range(1, 14)]
    found = read_commands(render(*(wrong(n, cause=Cause(kind=CauseKind.LOST, elements=len(n))) for n in names)))
    assert len(found) == 10
    assert found[-1][2] == "4 more first causes; the report has them"
    found = read_commands(render(*(wrong(n, cause=Cause(kind=CauseKind.LOST, elements=len(n))) for n in names[:10])))
    assert len(found) == 10
    assert all("more first causes" not in message for _, _, message in found)


@pytest.mark.parametrize(
    "name",
    ["\n::warning::x", "::warning::x", "a,line=1::x", "##[error]x", "a%0A::warning::x", "\r::warning::x", "a:b,c%d"],
)
def test_a_name_writes_no_command(name):
    log = render(wrong(name), finding(name, Verdict.WRONG), allow=(name,), source=None)
    commands = read_commands(log)
    assert [command for command, _, _ in commands] == ["error"]
    assert set(commands[0][1]) == {"title"}
    printed = name.replace("\n", "\\n").replace("\r", "\\r")
    assert commands[0][1]["title"] == f"shardproof: step 1, gradient: {printed}: WRONG"


def test_the_parser_of_this_test_reads_commands_that_are_not_escaped():
    assert read_commands("::warning::x")[0][0] == "warning"
    assert read_commands("  ::warning file=a::x")[0] == ("warning", {"file": "a"}, "x")
    assert read_commands("text ##[error]x")[0][0] == "old style"
    assert read_commands("::stop-commands::w\n::warning::x\n::w::\n::notice::y") == [("notice", {}, "y")]


def test_the_word_that_ends_the_report_is_drawn_anew():
    first, second = (render(finding("a")).splitlines()[0] for _ in range(2))
    assert first != second
    assert re.fullmatch(r"::stop-commands::[0-9a-f]{32}", first)


def test_empty_properties_are_left_out():
    assert write_command("error", "a\nb", {"file": None, "title": ""}) == "::error::a%0Ab"
