"""`shardproof prove --suggest`: before and after in one certificate, which `check` replays whole."""

import json
import shlex
import sys

import pytest

from shardproof.cli.app import main

pytest.importorskip("transformers")
WRONG = ["hf:llama", "--set", "num_hidden_layers=1", "--steps", "1", "--trials", "1"]
SUMS = "replicated_with_grad_allreduce"
PLANTED = [*WRONG, "--plan-set", f"*.input_layernorm={SUMS}"]


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)

    def shardproof(*arguments):
        monkeypatch.setattr(sys, "argv", ["shardproof", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        printed = capsys.readouterr()
        return end.value.code, printed.out, printed.err

    return shardproof


def test_a_wrong_plan_gets_the_options_that_mend_it(run):
    code, out, _ = run("prove", *PLANTED, "--suggest")
    assert code == 1  # what was asked for is not proved
    option = next(line for line in out.splitlines() if line.startswith("  --plan-set"))
    assert "The same proof with it: PROVED: " in out
    code, out, _ = run("prove", *PLANTED, *shlex.split(option))
    assert (code, out[:6]) == (0, "PROVED")


def test_one_certificate_has_before_and_after_and_is_replayed(run, tmp_path):
    path = tmp_path / "proof.json"
    assert run("prove", *PLANTED, "--suggest", "--format", "json", "--output", "proof.json")[0] == 1
    content = json.loads(path.read_text())
    suggestion = content["suggestion"]
    assert (content["ok"], suggestion["certificate"]["ok"]) == (False, True)
    assert suggestion["entries"] == {"model.layers.*.input_layernorm": "replicate"}
    assert suggestion["certificate"]["specification"]["plan_set"] == {
        "*.input_layernorm": SUMS,
        "model.layers.*.input_layernorm": "replicate",
    }
    code, out, _ = run("check", "proof.json")
    assert code == 1
    assert out.startswith("HOLDS, and is of a step that is NOT PROVED")
    forged = next(one for one in suggestion["certificate"]["findings"] if one["phase"] == "gradient")
    forged["verdict"] = "WRONG"
    suggestion["certificate"]["ok"] = False
    path.write_text(json.dumps(content))
    code, out, _ = run("check", "proof.json")
    assert out.startswith("DOES NOT HOLD")
    assert "with the suggested entries, " in out


def test_a_right_plan_has_nothing_to_suggest(run):
    code, out, _ = run("prove", *WRONG, "--suggest", "--format", "json")
    assert (code, json.loads(out)["suggestion"]) == (0, None)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["mine.py:step", "--parallelize", "mine.py:f"], "--suggest is for the plan of an hf: model"),
        (["hf:llama", "--candidate", "mine.py:f"], "--suggest is for the plan of an hf: model"),
        (["hf:llama", "--numeric"], "--numeric proves nothing"),
    ],
)
def test_what_has_no_plan_to_mend_is_refused(run, arguments, said):
    code, out, err = run("prove", *arguments, "--suggest")
    assert (code, out) == (2, "")
    assert said in err
