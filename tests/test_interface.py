"""What `import shardproof` offers, and what it costs."""

import subprocess
import sys

import pytest

import shardproof


def test_every_name_in_all_is_there_and_has_its_own_name():
    for name in shardproof.__all__:
        assert getattr(shardproof, name).__name__ == name


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'prove_everything'"):
        _ = shardproof.prove_everything


def test_importing_the_package_imports_nothing_heavy():
    code = "import shardproof, sys; print(sorted({'torch', 'numpy', 'typer', 'rich'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["walkthrough", "--nope"], "No such option: --nope"),
        (["walkthrough", "--devices", "x"], "--devices"),
        (["frobnicate"], "frobnicate"),
    ],
)
def test_a_usage_error_is_one_line_and_exit_code_2(arguments, said):
    result = subprocess.run(
        [sys.executable, "-m", "shardproof", *arguments], capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert result.stdout == ""
    assert said in result.stderr
    assert result.stderr.startswith("shardproof: error: ")
    assert result.stderr.count("\n") == 1
