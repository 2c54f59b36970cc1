"""`shardproof prove hf:... --loading`: what is printed, and the exit code; the loading is made up here."""

import sys

import pytest

from shardproof.cli.app import main
from shardproof.frameworks.transformers import loading
from shardproof.frameworks.transformers.loading import Loading, Misplaced

pytest.importorskip("transformers")
MISPLACED = Misplaced(name="lm_head.weight", where="rank 1", said="6 of 12 elements are missing")


@pytest.fixture
def run(monkeypatch, capsys):
    def shardproof(*arguments, misplaced=()):
        def check_loading(source, settings, devices, **_):
            assert (source, settings) == ("llama", {"num_hidden_layers": 1})
            return Loading(model="Llama", devices=devices, tensors=3, split=1, misplaced=misplaced)

        monkeypatch.setattr(loading, "check_loading", check_loading)
        given = ["prove", "hf:llama", "--set", "num_hidden_layers=1", "--loading", *arguments]
        monkeypatch.setattr(sys, "argv", ["shardproof", *given])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code or 0, capsys.readouterr()

    return shardproof


def test_a_model_that_is_loaded_right(run):
    code, printed = run("--devices", "4")
    assert (code, printed.err) == (0, "")
    assert printed.out == (
        "LOADED: Llama, 3 tensors, 1 of them split, 4 ranks\n"
        "Loaded sharded and saved again, each element is where it belongs, once.\n"
    )


def test_one_line_for_each_parameter_that_is_not(run):
    code, printed = run(misplaced=(MISPLACED,))
    assert code == 1
    assert printed.out == (
        "NOT LOADED AS ON A SINGLE DEVICE: Llama, 3 tensors, 1 of them split, 2 ranks\n"
        "  lm_head.weight (rank 1): 6 of 12 elements are missing\n"
    )


@pytest.mark.parametrize(
    "option", [["--mesh", "tp=2"], ["--plan-drop", "*"], ["--format", "json"], ["--numeric"], ["--reduce"]]
)
def test_options_of_a_proof_are_refused(run, option):
    code, printed = run(*option)
    assert code == 2
    assert "--loading loads the model by its own plan" in printed.err


def test_it_is_for_hf_models(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["shardproof", "prove", "step.py:step", "--loading"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert "--loading is for the plan of an hf: model" in capsys.readouterr().err
