"""Scripts without shardproof: what they hold, and that they end with 1 on a wrong plan, and with 0 on a right one."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

import shardproof as sp
from shardproof.errors import CannotRunError
from shardproof.frameworks.transformers import (
    OwnPlan,
    PlanChange,
    make_reproduction,
    save_reproduction,
    tiny_step,
)
from shardproof.frameworks.transformers.repro import _minimal, _without_dropout, _write_value
from shardproof.proving.cause import Cause, CauseKind
from shardproof.proving.findings import Finding, Verdict
from shardproof.proving.records import Key, Phase

pytest.importorskip("transformers")
SUMS = "replicated_with_grad_allreduce"


def make(kind, *, put=None, drop=(), roots=(), said=(), **settings):
    step = replace(tiny_step(kind, {"num_hidden_layers": 1, **settings}), steps=1, optimizer=None)
    return make_reproduction(step, OwnPlan(change=PlanChange(put=put, drop=drop)), 2, roots, said)


def root(phase, name):
    cause = Cause(kind=CauseKind.UNEXPLAINED)
    return Finding(key=Key(0, phase, name), verdict=Verdict.WRONG, cause=cause, root=True)


@pytest.fixture(scope="module")
def script():
    return make("qwen3", drop=("*q_norm",), roots=[root(Phase.GRADIENT, "a.weight")], said=['it\'s "wrong"']).script


def test_a_script_is_python_that_knows_nothing_of_shardproof(script):
    compile(script, "repro.py", "exec")
    assert "shardproof" not in script
    assert not re.search(r"pickle|eval\(|exec\(", script)
    assert "@" not in re.sub(r"@[a-z]", "", script)  # every part is filled in


def test_a_script_names_versions_plan_and_what_is_wrong(script):
    assert f"torch {torch.__version__.partition('+')[0]}" in script
    assert '    "model.layers.*.self_attn.k_norm": "replicated_with_grad_allreduce",' in script
    assert "self_attn.q_norm" not in script
    assert '# it\'s "wrong"' in script
    assert 'FIRST = ["a.weight"]' in script


def test_the_configuration_has_only_what_differs_from_the_defaults(script):
    entries = json.loads(script.partition('json.loads(r"""')[2].partition('"""')[0])
    assert entries["hidden_size"] == 32
    assert not {"hidden_act", "rms_norm_eps", "transformers_version"} & set(entries)


def test_a_configuration_that_cannot_be_made_of_less_is_written_whole():
    class Configuration:
        def __init__(self, *, needed):
            self.needed = needed

        def to_dict(self):
            return {"needed": self.needed, "model_type": "x"}

    assert _minimal(Configuration(needed=3)) == {"needed": 3}


def test_dropout_is_off():
    entries = make("llama", attention_dropout=0.25).script
    assert '"attention_dropout": 0.25' not in entries


def test_a_plan_that_patterns_cannot_say_is_written_out():
    script = make("llama", put={"model.layers.0.mlp.up_proj.weight": "replicate"}, num_hidden_layers=2).script
    assert '    "model.layers.1.mlp.up_proj.weight": "colwise",' in script
    assert "apply_tensor_parallelism(model, mesh, PLAN)" in script


def test_inputs_are_written_as_python():
    assert eval(_write_value(torch.tensor([[1, -100]])), {"torch": torch}).tolist() == [[1, -100]]
    assert eval(_write_value(torch.tensor([True])), {"torch": torch}).dtype == torch.bool
    assert _write_value([torch.zeros(2, 3), None, 4]) == "[draw(2, 3), None, 4]"
    with pytest.raises(CannotRunError, match="an input is a set"):
        _write_value({1})


def test_what_loss_and_gradients_do_not_show_gets_no_script():
    with pytest.raises(CannotRunError, match="the first cause is step 1, dropout mask x"):
        make("llama", roots=[root(Phase.MASK, "x")])


def test_the_report_has_the_sections_of_an_issue():
    report = make("llama", said=["gradient a: WRONG"]).report
    headings = [line for line in report.splitlines() if line.startswith("###")]
    assert headings == ["### System Info", "### What is wrong", "### Reproduction", "### Expected behavior"]
    assert "- gradient a: WRONG" in report


def test_both_files_are_written(tmp_path):
    save_reproduction(make("llama"), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.md", "repro.py"]
    with pytest.raises(CannotRunError, match="--repro: "):
        save_reproduction(make("llama"), tmp_path / "absent")


def run(made, folder):
    """The exit code of a script and what it prints, in a process that cannot import shardproof by the path."""
    save_reproduction(made, folder)
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "RANK", "WORLD_SIZE")}
    done = subprocess.run(
        [sys.executable, "repro.py"], cwd=folder, env=kept, capture_output=True, text=True, check=False, timeout=600
    )
    return done.returncode, done.stdout


def prove_and_make(kind, **change):
    step = replace(tiny_step(kind, {"num_hidden_layers": 1}), steps=1, optimizer=None)
    plan = OwnPlan(change=PlanChange(**change))
    proof = sp.prove(step, parallelize=plan, devices=2, trials=1)
    return make_reproduction(step, plan, 2, proof.roots, [])


@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["qwen3", "gemma", "gemma4_vision"])
def test_a_right_plan_ends_with_0(kind, tmp_path):
    code, out = run(prove_and_make(kind), tmp_path)
    assert code == 0
    assert re.search(r"^EQUAL: 0 of \d+ tensors differ$", out, re.MULTILINE)


@pytest.mark.processes
@pytest.mark.slow
def test_a_wrong_plan_ends_with_1_and_shows_the_gradient(tmp_path):
    code, out = run(prove_and_make("qwen3", drop=("*q_norm",)), tmp_path)
    assert code == 1
    at = out.splitlines().index("model.layers.0.self_attn.q_norm.weight")
    ranks = [json.loads(line.partition(": ")[2]) for line in out.splitlines()[at + 1 : at + 3]]
    reference = json.loads(out.splitlines()[at + 3].partition(": ")[2])
    assert [sum(pair) for pair in zip(*ranks, strict=True)] == pytest.approx(reference, rel=1e-4, abs=1e-6)
    assert re.search(r"^DIFFERENT: 1 of \d+ tensors differ$", out, re.MULTILINE)


@pytest.mark.processes
@pytest.mark.slow
def test_a_wrong_output_is_shown(tmp_path):
    code, out = run(prove_and_make("mixtral", put={"*.experts": "local_params"}), tmp_path)
    assert code == 1
    assert "output of model.layers.0.mlp.experts\n  observed on rank 0: [" in out


@pytest.mark.processes
@pytest.mark.slow
def test_code_that_fails_on_ranks_ends_with_1(tmp_path):
    code, out = run(make("llama", drop=("*k_proj",)), tmp_path)
    assert code == 1
    assert "observed: RuntimeError: " in out
    assert "reference: runs in one process" in out


def test_dropout_is_off_in_tables_whose_keys_are_numbers_too():
    assert _without_dropout("table", {1: {"dropout": 0.5}, 2: 0.5}) == {1: {"dropout": 0.0}, 2: 0.5}
