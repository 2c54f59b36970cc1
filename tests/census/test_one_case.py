"""One model type, proved or not: every kind of end is a result."""

from types import SimpleNamespace

import pytest

from shardproof.census import one_case
from shardproof.census.one_case import _describe, _name_outcome, prove_case
from shardproof.census.results import LOADING, Case, Outcome
from shardproof.errors import CannotRunError
from shardproof.exact.errors import UnsupportedOpError
from shardproof.frameworks.transformers import OneDeviceError, ShardedCrashError
from shardproof.frameworks.transformers.loading import Loading, Misplaced
from shardproof.proving.findings import Finding, Verdict
from shardproof.proving.records import Key, Phase

pytest.importorskip("transformers")


def caused(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (
            caused(CannotRunError("the step cannot be run on one device: ..."), UnsupportedOpError("x")),
            Outcome.UNSUPPORTED,
        ),
        (caused(CannotRunError("rank 0: ..."), ShardedCrashError("x")), Outcome.CRASH),
        (caused(CannotRunError("rank 1: KeyError: 3"), KeyError(3)), Outcome.CRASH),
        (caused(CannotRunError("rank 1: deadlock"), CannotRunError("deadlock")), Outcome.REFUSED),
        (OneDeviceError("x"), Outcome.ONE_DEVICE),
        (caused(CannotRunError("rank 1: ..."), MemoryError()), Outcome.MEMORY),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), Outcome.MEMORY),
        (CannotRunError("forward needs hyperspace"), Outcome.REFUSED),
        (KeyError("of our own"), Outcome.REFUSED),
    ],
)
def test_what_an_error_means(error, outcome):
    assert _name_outcome(error) is outcome


def test_what_is_wrong_is_told_before_what_nothing_reaches():
    roots = [
        Finding(key=Key(1, Phase.GRADIENT, name), verdict=verdict, root=True)
        for name, verdict in (("tower.weight", Verdict.VACUOUS), ("q_norm.weight", Verdict.WRONG))
    ]
    found = _describe(Case(kind="llava"), SimpleNamespace(findings=roots, roots=roots, mesh={"tp": 2}))
    assert found.outcome is Outcome.WRONG
    assert found.causes == ("WRONG gradient q_norm.weight", "VACUOUS gradient tower.weight")


@pytest.mark.parametrize("right", [True, False], ids=["right", "wrong"])
def test_a_checkpoint_loaded_instead_of_a_step(monkeypatch, right):
    misplaced = () if right else (Misplaced(name="w", where="rank 1", said="6 of 12 elements are missing"),)
    found = Loading(model="Llama", devices=2, tensors=3, split=1, misplaced=misplaced)
    monkeypatch.setattr(one_case, "check_loading", lambda _kind, _settings, _devices: found)
    result = prove_case(Case(kind="llama", variant=LOADING))
    assert (result.outcome, result.model) == (Outcome.LOADED if right else Outcome.WRONG, "Llama")
    assert result.causes == (() if right else ("w (rank 1): 6 of 12 elements are missing",))
    assert not result.suggestible


def test_a_failure_of_loading_on_ranks_is_a_crash(monkeypatch):
    def fail(*_):
        raise ShardedCrashError("rank 0: Llama loads on one device ...")

    monkeypatch.setattr(one_case, "check_loading", fail)
    assert prove_case(Case(kind="llama", variant=LOADING)).outcome is Outcome.CRASH


@pytest.mark.slow
def test_a_right_and_a_wrong_plan(monkeypatch):
    right = prove_case(Case(kind="qwen3"))
    assert (right.outcome, right.model, right.causes) == (Outcome.PROVED, "Qwen3ForCausalLM", ())
    monkeypatch.setattr(one_case, "PlanChange", lambda **more: one_case_change(drop=("*q_norm",), **more))
    assert prove_case(Case(kind="qwen3")).suggested == {}  # nothing is searched for unasked
    wrong = prove_case(Case(kind="qwen3", suggest=True))
    assert wrong.outcome is Outcome.WRONG
    (cause,) = wrong.causes
    assert cause.startswith(
        "WRONG gradient model.layers.*.self_attn.q_norm.weight (2 tensors): ranks hold partial values"
    )
    assert cause.endswith("an all-reduce is missing")
    assert wrong.suggested == {"model.layers.*.self_attn.q_norm": "replicated_with_grad_allreduce"}
    assert (wrong.mended, wrong.tried) == (Outcome.PROVED, 1)


@pytest.mark.slow
def test_code_that_fails_on_ranks_is_a_crash_only_if_it_fails_in_ordinary_arithmetic_too(monkeypatch):
    monkeypatch.setattr(one_case, "PlanChange", lambda: one_case_change(drop=("*k_proj",)))
    case = Case(kind="llama", settings={"num_hidden_layers": 1})
    crash = prove_case(case)
    assert crash.outcome is Outcome.CRASH
    assert "in module model.layers.0.self_attn" in crash.said
    right = one_case.prove
    runs = SimpleNamespace(findings=())
    monkeypatch.setattr(one_case, "prove", lambda *args, **more: runs if more["numeric"] else right(*args, **more))
    assert prove_case(case).outcome is Outcome.REFUSED


one_case_change = one_case.PlanChange


def test_a_type_that_cannot_be_built_is_a_result():
    result = prove_case(Case(kind="no-such-type"))
    assert result.outcome is Outcome.REFUSED
    assert "transformers makes no configuration of 'no-such-type'" in result.said
