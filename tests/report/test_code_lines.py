"""Where a first cause is to be looked at: the plan's entry, the model's line, the sharding's beginning, or nowhere."""

from dataclasses import replace

import pytest
from tests.report.proofs import finding

from shardproof.frameworks.plan_source import PlanEntry, PlanSource
from shardproof.proving.findings import Verdict
from shardproof.proving.records import Phase
from shardproof.report.code_lines import CodeLine, find_code_line, find_module

MODEL = "class Model:\n    def forward(self, x):\n        return self.up(x)\n"


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plans").mkdir()
    (tmp_path / "plans" / "tp.py").write_text("\n" * 20)
    (tmp_path / "model.py").write_text(MODEL)
    return tmp_path


def source_of(project, *patterns, line=10):
    entries = tuple(PlanEntry(pattern=pattern, line=11 + number) for number, pattern in enumerate(patterns))
    return PlanSource(path=project / "plans" / "tp.py", line=line, entries=entries)


def find(project, name, source, *, source_line="", phase=Phase.GRADIENT):
    wrong = finding(name, Verdict.WRONG, phase=phase, root=True, source_line=source_line)
    return find_code_line(wrong, source, project)


PLAN = "plans/tp.py"


@pytest.mark.parametrize(
    ("name", "phase", "line"),
    [
        ("blocks.0.up.weight", Phase.GRADIENT, 11),
        ("blocks.0.up.weight/momentum_buffer", Phase.STATE, 11),
        ("blocks.7.down", Phase.OUTPUT, 12),
        ("blocks.7.down[1]", Phase.INPUT, 12),
        ("model.blocks.7.down", Phase.OUTPUT, 12),  # a plan may begin inside the model
        ("blocks.0.other.weight", Phase.GRADIENT, 10),  # no entry: where the sharding begins
        ("gradient norm", Phase.NORM, 10),
        ("experts.gate_up", Phase.GRADIENT, 13),  # a parameter that has an entry of its own
        ("embed.weight", Phase.GRADIENT, 10),
    ],
)
def test_the_entry_of_the_module_or_where_the_sharding_begins(project, name, phase, line):
    source = source_of(project, "blocks.*.up", "blocks.*.down", "experts.gate_up", "weight", "*")
    assert find(project, name, source, phase=phase) == CodeLine(path=PLAN, line=line)


def test_the_longest_pattern_wins_and_of_two_alike_the_one_behind_the_beginning(project):
    source = source_of(project, "up", "blocks.*.up", "blocks.0.*")
    assert find(project, "blocks.0.up.weight", source).line == 12
    twice = replace(source, entries=(PlanEntry(pattern="up", line=3), PlanEntry(pattern="up", line=15)))
    assert find(project, "up.weight", twice).line == 15


def test_without_an_entry_the_line_that_calls_the_module(project):
    line = "model.py:3 in forward"
    assert find(project, "up.weight", source_of(project, "down"), source_line=line) == CodeLine(path="model.py", line=3)
    assert find(project, "up.weight", source_of(project, "up"), source_line=line).path == PLAN


@pytest.mark.parametrize(
    "line", ["absent.py:3 in forward", "model.py:99 in forward", "model.py:3 in other", "no line", ""]
)
def test_a_line_that_cannot_be_the_one_is_not_taken(project, line):
    assert find(project, "up.weight", None, source_line=line) is None
    assert find(project, "up.weight", source_of(project), source_line=line).path == PLAN


def test_a_file_outside_the_repository_is_not_named(project):
    assert find(project / "plans", "up.weight", None, source_line="model.py:3 in forward") is None
    inside = find(project / "plans", "up.weight", source_of(project, "up"))
    assert inside == CodeLine(path="tp.py", line=11)
    (project / "link.py").symlink_to("/etc/hosts")
    assert find(project, "up.weight", PlanSource(path=project / "link.py", line=1)) is None


def test_the_module_of_a_tensor():
    assert find_module(finding("a.b.weight/exp_avg", phase=Phase.STATE).key) == "a.b"
    assert find_module(finding("a.b[0]/softmax", phase=Phase.OUTPUT).key) == "a.b"
    assert find_module(finding("loss", phase=Phase.LOSS).key) == ""
