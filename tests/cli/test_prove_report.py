"""`--format github`, `markdown` and `sarif`, as a job in CI runs them."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from tests.proving import steps

from shardproof.cli.app import main
from shardproof.cli.output import ProofFormat
from shardproof.cli.prove_report import find_summary_file


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run `shardproof prove` in the folder `work` of a repository; return its exit code, stdout and stderr."""
    (tmp_path / "work").mkdir()
    shutil.copy(Path(steps.__file__), tmp_path / "work" / "my_training.py")
    monkeypatch.chdir(tmp_path / "work")
    for name in ("GITHUB_WORKSPACE", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)

    def prove(sharding, *arguments):
        location = f"my_training.py:{sharding}"
        given = ["prove", "my_training.py:step", "--parallelize", location, "--trials", "1", *arguments]
        monkeypatch.setattr(sys, "argv", ["shardproof", *given])
        with pytest.raises(SystemExit) as exit_:
            main()
        printed = capsys.readouterr()
        return exit_.value.code, printed.out, printed.err

    return prove


LINE = next(n for n, line in enumerate(Path(steps.__file__).read_text().splitlines(), 1) if '{"up": Colwise' in line)


def test_annotations_name_the_file_from_the_root_of_the_repository(run, monkeypatch, tmp_path):
    assert f"::error file=my_training.py,line={LINE},title=" in run("scaled_gradient", "--format", "github")[1]
    monkeypatch.setenv("GITHUB_WORKSPACE", str(tmp_path))
    code, out, _ = run("scaled_gradient", "--format", "github")
    assert code == 1
    assert out.startswith("::stop-commands::")
    assert "NOT PROVED: " in out
    assert out.splitlines()[-1].startswith(f"::error file=work/my_training.py,line={LINE},title=shardproof%3A step 1")
    assert out.splitlines()[-1].partition("::2 times")[1]


def test_the_summary_is_appended_to_what_other_steps_have_written(run, monkeypatch, tmp_path):
    file = tmp_path / "summary.md"
    file.write_text("# before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(file))
    assert run("parallelize", "--format", "github")[0] == 0
    assert run("scaled_gradient", "--format", "github")[0] == 1
    written = file.read_text()
    assert written.startswith("# before\n### shardproof: PROVED: ")
    assert "\n### shardproof: NOT PROVED: " in written
    assert "2 times too large" in written
    run("scaled_gradient", "--format", "text")
    assert file.read_text() == written


def test_a_proof_is_a_notice(run):
    code, out, err = run("parallelize", "--format", "github")
    assert (code, err) == (0, "")
    assert out.splitlines()[-1].startswith("::notice title=shardproof::PROVED: ")


def test_what_cannot_run_is_an_annotation_too(run):
    code, out, err = run("raises", "--format", "github")
    assert code == 2
    assert out.startswith("::error title=shardproof could not run::rank 1: OverflowError")
    assert err.startswith("shardproof: error: rank 1: OverflowError")
    assert run("raises")[1] == ""


def test_a_summary_that_cannot_be_written_is_refused_before_the_proof(run, monkeypatch, tmp_path):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "no" / "where"))
    code, _, err = run("scaled_gradient", "--format", "github")
    assert code == 2
    assert "GITHUB_STEP_SUMMARY" in err
    assert "its folder does not exist" in err


def test_the_summary_is_githubs_alone():
    assert find_summary_file(ProofFormat.markdown, {"GITHUB_STEP_SUMMARY": "x"}) is None
    assert find_summary_file(ProofFormat.github, {}) is None
    assert find_summary_file(ProofFormat.github, {"GITHUB_STEP_SUMMARY": ""}) is None
    assert find_summary_file(ProofFormat.github, {"GITHUB_STEP_SUMMARY": os.devnull + "x"}) is not None


def test_sarif_is_json_with_the_line_of_the_plan(run):
    code, out, _ = run("scaled_gradient", "--format", "sarif")
    (result,) = json.loads(out)["runs"][0]["results"]
    assert code == 1
    assert result["ruleId"] == "scaled"
    assert result["locations"][0]["physicalLocation"]["region"] == {"startLine": LINE}
    assert json.loads(run("parallelize", "--format", "sarif")[1])["runs"][0]["results"] == []


def test_markdown_goes_to_a_file(run, tmp_path):
    code, out, _ = run("scaled_gradient", "--format", "markdown", "--output", "proof.md")
    assert (code, out) == (1, "")
    written = (tmp_path / "work" / "proof.md").read_text()
    assert written.startswith("### shardproof: NOT PROVED")
    assert "`my_training.py:step --parallelize my_training.py:scaled_gradient`" in written
