"""The examples run, agree where they should, and see their bugs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name):
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(EXAMPLES / name)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.mark.parametrize(
    ("name", "models", "ways"),
    [
        ("exact_mlp.py", ["MLP"], 3),
        ("exact_gpt_block.py", ["GPT block"], 2),
        pytest.param("exact_transformers.py", ["llama", "mixtral", "gemma2", "deepseek_v3"], 8, marks=pytest.mark.slow),
    ],
)
def test_an_example_runs_exactly(name, models, ways):
    done = run(name)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    heads = [line for line in lines if not line.startswith(" ")]
    assert [line.split(":")[0] for line in heads] == models
    assert all(" ops, loss " in line and "gradient norm " in line for line in heads)
    assert len(lines) == len(models) + ways
    assert sum("differ, the first is" in line for line in lines) == len(models)


def test_a_comparison_fails_where_a_bug_is_not_seen_or_a_right_way_differs(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import torch
    from exact_mlp import build, loss_of
    from two_ways import Way, compare, in_parts

    rows = torch.arange(8)
    right = Way(build=build, loss=in_parts(loss_of, rows, 1))
    wrong = Way(build=build, loss=in_parts(loss_of, rows, 2, averaged=False))
    assert compare("right", right, same={"itself": right}, bugs={"bug": wrong})
    assert not compare("unseen", right, same={}, bugs={"no bug": right})
    assert not compare("refused", right, same={"not the same": wrong}, bugs={})
    assert capsys.readouterr().out.count("all the same") == 2
