"""The code of README.md and docs/ runs, and prints what stands below it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"```python\n(?P<code>.*?)```(?:\n+```text\n(?P<printed>.*?)```)?", flags=re.DOTALL)


def read_blocks(page):
    return [(match["code"], match["printed"]) for match in BLOCK.finditer(page.read_text())]


def run(code):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if read_blocks(page)], ids=lambda page: page.name)
def test_the_code_runs_and_prints_what_stands_below_it(page):
    for code, printed in read_blocks(page):
        result = run(code)
        assert result.returncode == 0, f"{code}\n{result.stderr}"
        if printed is not None:
            assert result.stdout == printed, code


def test_the_readme_has_code():
    assert len(read_blocks(ROOT / "README.md")) >= 2


def test_code_that_prints_something_else_is_noticed():
    code, printed = BLOCK.search("```python\nprint(1)\n```\n\n```text\n2\n```").groups()
    assert run(code).stdout != printed


@pytest.mark.slow
def test_the_commands_of_the_readme_exit_with_zero():
    shell = "\n".join(re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL))
    commands = [line.split("#")[0].split() for line in shell.splitlines() if line.startswith("shardproof ")]
    assert len(commands) >= 2
    for command in commands:
        result = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
