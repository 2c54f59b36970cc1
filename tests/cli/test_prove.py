"""`shardproof prove` as a user meets it: exit codes, text, JSON, files, and one line for bad input."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from tests.proving import steps

from shardproof.cli.app import main

STEPS = Path(steps.__file__)


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run the command in this process, in a folder with the steps; return its exit code, stdout and stderr."""
    shutil.copy(STEPS, tmp_path / "my_training.py")
    monkeypatch.chdir(tmp_path)

    def prove(*arguments):
        monkeypatch.setattr(sys, "argv", ["shardproof", *arguments])
        with pytest.raises(SystemExit) as exit_:
            main()
        printed = capsys.readouterr()
        return exit_.value.code, printed.out, printed.err

    return prove


def prove_file(sharding, *more):
    return "prove", "my_training.py:step", "--parallelize", f"my_training.py:{sharding}", "--trials", "1", *more


def test_a_right_sharding_is_exit_code_0(run):
    code, out, err = run(*prove_file("parallelize"))
    assert (code, err) == (0, "")
    assert out.startswith("PROVED: ")
    assert "First causes" not in out


def test_a_wrong_sharding_is_exit_code_1_with_its_cause(run):
    code, out, err = run(*prove_file("scaled_gradient"))
    assert (code, err) == (1, "")
    assert out.startswith("NOT PROVED: ")
    assert "step 1, gradient: up.weight: WRONG\n    2 times too large." in out


def test_json_says_what_was_run_and_what_it_showed(run):
    code, out, _ = run(*prove_file("scaled_gradient", "--format", "json", "--steps", "2", "--seed", "5"))
    content = json.loads(out)
    assert code == 1
    assert (content["schema_version"], content["ok"], content["mesh"], content["trials"]) == (7, False, {"tp": 2}, 1)
    assert content["specification"]["parallelize"] == "my_training.py:scaled_gradient"
    assert content["specification"]["steps"] == 2
    assert {finding["step"] for finding in content["findings"]} == {1, 2}
    roots = [(one["phase"], one["name"]) for one in content["findings"] if one["root"]]
    assert roots == [("gradient", "up.weight")]
    assert set(content["files"]) == {"my_training.py"}
    assert {"shardproof", "torch", "python"} <= set(content["versions"])


def test_a_reduced_proof_says_its_conditions_and_can_be_checked(run):
    pytest.importorskip("transformers")
    few = ("--set", "num_attention_heads=4", "--set", "num_key_value_heads=2")
    prove = ("prove", "hf:llama", "--reduce", *few, "--trials", "1")
    code, _, err = run(*prove, "--format", "json", "--output", "proof.json")
    assert (code, err) == (0, "")
    content = json.loads(Path("proof.json").read_text())
    assert content["specification"]["reduce"] == content["mesh"] == {"tp": 2}
    assert [one["name"] for one in content["reduction"]["conditions"]][:3] == ["counts", "layers", "division"]
    code, out, _ = run("check", "proof.json")
    assert (code, out.split(":")[0]) == (0, "HOLDS")
    code, out, err = run(*prove, "--devices", "8")
    assert (code, out) == (2, "")
    assert "8 ranks cannot share 4 heads" in err


def test_output_goes_to_a_file_whole_or_not_at_all(run, tmp_path):
    code, out, _ = run(*prove_file("parallelize", "--output", "proof.txt"))
    assert (code, out) == (0, "")
    before = (tmp_path / "proof.txt").read_text()
    assert before.startswith("PROVED")
    code, _, err = run(*prove_file("nothing_here", "--output", "proof.txt"))
    assert code == 2
    assert "no 'nothing_here'" in err
    assert (tmp_path / "proof.txt").read_text() == before
    assert not list(tmp_path.glob(".proof*"))


@pytest.mark.processes
def test_a_spawned_run_loads_the_file_again_and_agrees(run):
    simulated = run(*prove_file("scaled_gradient"))
    assert run(*prove_file("scaled_gradient", "--spawn")) == simulated
    assert simulated[0] == 1


SOURCES = {
    "broken.py": "def step(:",
    "raising.py": "raise OverflowError('too much')",
    "leaving.py": "import sys; sys.exit(0)",
}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["my_training.py"], "give FILE.py:NAME"),
        (["my_training:step"], "give FILE.py:NAME"),
        (["absent.py:step"], "absent.py: no such file"),
        (["my_training.py:absent"], "my_training.py has no 'absent'"),
        (["my_training.py:MLP"], "is a type; needed is a shardproof.Step"),
        (["my_training.py:step", "--parallelize", "my_training.py:step"], "is a Step; needed is a function"),
        (["broken.py:step"], "SyntaxError"),
        (["raising.py:step"], "OverflowError: too much"),
        (["leaving.py:step"], "SystemExit"),
        (["my_training.py:step", "--set", "a=1"], "--plan-set and --plan-drop are for an hf: model"),
        (["my_training.py:step", "--output", "no/such/folder"], "its folder does not exist"),
        (["my_training.py:step", "--devices", "1"], "devices is 1"),
        (["my_training.py:step", "--trials", "0"], "trials is 0"),
        (["my_training.py:step", "--steps", "0"], "steps is 0"),
        (["my_training.py:step", "--spawn", "--timeout", "0"], "timeout of 0.0 s"),
        (["my_training.py:failing_step"], "cannot be run on one device: ZeroDivisionError"),
        (["my_training.py:step", "--parallelize", "my_training.py:raises"], "rank 1: OverflowError: more than it can"),
    ],
)
def test_what_cannot_run_is_one_line_and_exit_code_2(run, tmp_path, arguments, said):
    for name, source in SOURCES.items():
        (tmp_path / name).write_text(source)
    (tmp_path / "my_training.py").write_text(
        STEPS.read_text() + "\nfailing_step = make_step(loss=lambda outputs, targets: 1 // 0)\n"
    )
    if "--parallelize" not in arguments:
        arguments = [*arguments, "--parallelize", "my_training.py:parallelize"]
    code, out, err = run("prove", *arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert err.startswith("shardproof: error: ")
    assert err.count("\n") == 1


def test_a_file_without_a_sharding_says_what_is_needed(run):
    assert "--parallelize FILE.py:NAME is needed" in run("prove", "my_training.py:step")[2]


def test_a_file_with_the_name_of_a_module_is_run_all_the_same(run, tmp_path):
    (tmp_path / "my_training.py").rename(tmp_path / "json.py")
    arguments = [argument.replace("my_training", "json") for argument in prove_file("parallelize")]
    assert run(*arguments)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["hf:no-such-model"], "transformers makes no configuration of 'no-such-model'"),
        (["hf:absent.json"], "absent.json is no configuration that can be read"),
        (["hf:qwen3", "--plan-drop", "*nothing*"], "--plan-drop *nothing*: no entry of the plan matches"),
        (["hf:qwen3", "--plan-set", "*q_proj=sideways"], "no such style"),
        (["hf:qwen3", "--set", "num_hidden_layers"], "'num_hidden_layers': give KEY=VALUE"),
        (
            ["hf:qwen3", "--plan-drop", "*", "--parallelize", "my_training.py:parallelize"],
            "leave --parallelize and --candidate out",
        ),
        (["hf:qwen3", "--set", "hidden_size=-3"], ""),
    ],
)
def test_an_hf_model_that_cannot_run_is_one_line_and_exit_code_2(run, arguments, said):
    code, out, err = run("prove", *arguments, "--trials", "1", "--steps", "1", "--set", "num_hidden_layers=1")
    assert (code, out) == (2, "")
    assert said in err
    assert err.startswith("shardproof: error: ")


QWEN3 = ("prove", "hf:qwen3", "--trials", "1", "--steps", "1", "--set", "num_hidden_layers=2")


@pytest.mark.slow
def test_qwen3_is_proved_and_without_q_norm_in_its_plan_names_the_missing_all_reduce(run):
    code, out, _ = run(*QWEN3)
    assert code == 0, out
    code, out, _ = run(*QWEN3, "--plan-drop", "*q_norm")
    assert code == 1
    roots = out.partition("First causes:\n")[2].partition("\n\n")[0]
    assert "gradient: model.layers.*.self_attn.q_norm.weight (2 tensors): WRONG" in roots
    assert "ranks hold partial values whose sum is right: an all-reduce is missing." in roots
    assert roots.count("WRONG") == 1


def test_a_page_is_written_beside_the_report(run, tmp_path):
    code, out, err = run(*prove_file("scaled_gradient", "--html", "proof.html", "--show", "gradient down.bias"))
    assert (code, err) == (1, "")
    assert out.startswith("NOT PROVED: ")
    page = (tmp_path / "proof.html").read_text()
    assert "<!doctype html>" in page[:20]
    assert "2 times too large" in page
    assert "my_training.py:step --parallelize my_training.py:scaled_gradient" in page
    assert page.count('class="maps"') >= 4  # up.weight and down.bias, on two ranks each
    assert not list(tmp_path.glob(".proof*"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--html", "no/where.html"), "--html no/where.html: its folder does not exist"),
        (("--html", "."), "--html . is not a regular file"),
        (("--html", "a", "--output", "a"), "--output and --html are the same file"),
        (("--show", "*"), "give --html FILE too"),
    ],
)
def test_a_page_that_cannot_be_written_is_refused_before_the_proof(run, options, said):
    code, out, err = run("prove", "nowhere.py:step", *options)
    assert (code, out) == (2, "")
    assert said in err


def test_verbose_has_every_tensor(run):
    code, out, _ = run(*prove_file("parallelize", "-v"))
    assert code == 0
    assert "  step 1, updated parameter up.weight: PROVED" in out
