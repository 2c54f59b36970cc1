"""`shardproof prove --repro DIR`: where the script and the report come to lie, and what is refused."""

import sys

import pytest

from shardproof.cli.app import main

pytest.importorskip("transformers")
SMALL = ["hf:llama", "--set", "num_hidden_layers=1", "--steps", "1", "--trials", "1"]


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)

    def prove(*arguments):
        monkeypatch.setattr(sys, "argv", ["shardproof", "prove", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        printed = capsys.readouterr()
        return end.value.code, printed.out, printed.err

    return prove


def test_a_wrong_plan_has_its_first_cause_in_the_script(run, tmp_path):
    put = "*.input_layernorm=replicated_with_grad_allreduce"
    code, out, err = run(*SMALL, "--plan-set", put, "--repro", "scripts")
    assert (code, err) == (1, "")
    assert out.startswith("NOT PROVED")
    script = (tmp_path / "scripts" / "repro.py").read_text()
    assert 'FIRST = ["model.layers.0.input_layernorm.weight"]' in script
    told = "step 1, gradient: model.layers.0.input_layernorm.weight: WRONG. 2 times too large."
    assert f"# {told}" in script
    assert f"- {told}" in (tmp_path / "scripts" / "report.md").read_text()


def test_code_that_fails_on_ranks_has_a_script_too(run, tmp_path):
    code, out, err = run(*SMALL, "--plan-drop", "*k_proj", "--repro", "scripts")
    assert (code, out) == (2, "")
    assert "fails when it is sharded" in err
    assert (
        "# LlamaForCausalLM runs on one device and fails when it is sharded"
        in (tmp_path / "scripts" / "repro.py").read_text()
    )


def test_what_no_script_would_show_is_said_beside_the_proof(run, tmp_path):
    code, out, err = run(*SMALL, "--set", "attention_dropout=0.5", "--repro", "scripts")
    assert code == 1
    assert out.startswith("NOT PROVED")
    assert "--repro: the first cause is step 1, dropout mask" in err
    assert list((tmp_path / "scripts").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["mine.py:step", "--parallelize", "mine.py:f", "--repro", "x"], "--repro is for the plan of an hf: model"),
        (["hf:llama", "--mesh", "dp=2,tp=2", "--repro", "x"], "--repro writes a script for one axis tp"),
        (["hf:llama", "--repro", "no/such/folder"], "--repro no/such/folder: No such file or directory"),
    ],
)
def test_what_cannot_be_written_is_refused_first(run, arguments, said):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert said in err
