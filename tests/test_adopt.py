"""The tests that docs/adopt.md gives run, pass, and fail where the sharding is wrong; the workflow's commands run."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
WORKFLOW = ROOT / "examples" / "github_workflow.yml"
PAGE = (ROOT / "docs" / "adopt.md").read_text()
BLOCKS = re.findall(r"^## (.*?)$|```python\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE)
# What makes each of them wrong, and what the failure then says.
BREAKS = {
    "With pytest": (
        '    return parallelize_module(model, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})',
        (
            '    model = parallelize_module(model, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})\n'
            "    model[0].weight.register_hook(lambda gradient: gradient * 2)\n"
            "    return model"
        ),
        "0.weight: WRONG. 2 times too large.",
    ),
    "With unittest": (
        "        self.assertProved(step, parallelize=lambda model, mesh: parallelize_module(model, mesh, PLAN))",
        "        self.assertProved(step, parallelize=lambda model, mesh: model)",
        "nothing is split",
    ),
    "transformers": (
        "change=PlanChange()",
        "change=PlanChange(drop=('*q_norm',) if model_type == 'qwen3' else ())",
        "q_norm.weight (2 tensors): WRONG. ranks hold partial values",
    ),
    "torchtitan, and other repositories with DTensor plans": (
        '    apply_fsdp(model, mesh["dp"])\n',
        "",
        "an average is missing",
    ),
    "Megatron-style repositories": (
        "CopyToRanks.apply(self.norm(x))",
        "self.norm(x)",
        "An all-reduce over tp is missing in the backward.",
    ),
}


def read_tests():
    title, found = "", {}
    for heading, block in BLOCKS:
        title = heading or title
        if block:
            found[title] = block
    return found


TESTS = read_tests()


def run_pytest(folder, source):
    (folder / "test_block.py").write_text(source)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", "test_block.py"],
        cwd=folder,
        env=os.environ | {"CI": "true", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_each_kind_of_repository_has_a_test_and_a_way_to_break_it():
    assert set(TESTS) == set(BREAKS)


@pytest.mark.slow
@pytest.mark.parametrize("title", TESTS)
def test_the_test_passes_and_is_able_to_fail(title, tmp_path):
    right, wrong, said = BREAKS[title]
    result = run_pytest(tmp_path, TESTS[title])
    assert re.search(r"\b1 passed", result.stdout), result.stdout + result.stderr
    assert TESTS[title].count(right) == 1
    result = run_pytest(tmp_path, TESTS[title].replace(right, wrong))
    assert result.returncode == 1, result.stdout + result.stderr
    assert said in result.stdout.partition("short test summary info")[2], result.stdout


def list_commands():
    steps = yaml.safe_load(WORKFLOW.read_text())["jobs"]["prove"]["steps"]
    commands = [shlex.split(line) for step in steps for line in step.get("run", "").splitlines()]
    return [command for command in commands if command[0] == "shardproof"]


@pytest.mark.slow
@pytest.mark.parametrize("command", list_commands(), ids=lambda command: command[command.index("--format") + 1])
def test_the_commands_of_the_workflow_run(command, tmp_path):
    summary = tmp_path / "summary.md"
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    result = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=tmp_path,
        env=os.environ | {"GITHUB_STEP_SUMMARY": str(summary)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert summary.exists() == ("github" in command)
    assert (tmp_path / "shardproof.sarif").exists() == ("sarif" in command)


def test_the_workflow_is_one_that_github_reads():
    content = yaml.safe_load(WORKFLOW.read_text())
    assert {"pull_request", "push"} <= set(content[True])  # YAML reads `on` as true
    job = content["jobs"]["prove"]
    assert all(("uses" in step) != ("run" in step) for step in job["steps"])
    assert len(list_commands()) == 2
    assert content["permissions"]["security-events"] == "write"  # what the upload needs
