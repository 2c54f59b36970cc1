"""Every op of PyTorch's op database that takes floating tensors is exact or refused; none is wrong or rounded."""

import sys
import warnings
from pathlib import Path
from unittest import mock

import pytest
import torch
from tests.exact.op_db.__main__ import main
from tests.exact.op_db.called_by_models import CALLED_BY_MODELS
from tests.exact.op_db.in_place_programs import PROGRAMS, run_program
from tests.exact.op_db.judge import judge
from tests.exact.op_db.rational import stands_for
from tests.exact.op_db.table import count, every_verdict, ops_seen, render, say, share
from torch.testing._internal.common_methods_invocations import op_db

from shardproof.exact.rules import registry
from shardproof.exact.rules.registry import RULES, Rule, find_op

DOCS = Path(__file__).parents[2] / "docs" / "exact-ops.md"

# Refused by design: numbers drawn inside.
REFUSED = {"rand_like.default", "uniform_.default", "exponential_.default"}


@pytest.fixture(scope="module")
def judged():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's own, of the samples
        return every_verdict()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_op_is_wrong_or_rounded(judged):
    wrong = {v.name: v.how for v in judged[0] if v.outcome == "wrong"}
    assert wrong == {}


@pytest.mark.slow
def test_most_ops_are_exact_and_the_share_is_told(judged, capsys):
    say(judged[0])
    assert "% exact" in capsys.readouterr().err
    assert share(judged[0]) >= 0.6
    assert count(judged[0])["exact"] > 450


@pytest.mark.slow
def test_the_table_in_the_docs_is_current(judged):
    assert DOCS.read_text() == render(judged[0]), "run python -m tests.exact.op_db"


@pytest.mark.slow
def test_every_op_that_models_call_is_exact(judged):
    seen = set(judged[1])
    for program in PROGRAMS:
        with ops_seen() as here:
            run_program(program)
        seen |= here
    assert sorted(set(CALLED_BY_MODELS) - seen - REFUSED) == []


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_that_write_in_place_give_pytorchs_numbers(name):
    exact, native, prime = run_program(name)
    for a, b in zip(exact, native, strict=True):
        assert all(
            stands_for(n, r, prime, 64.0) for n, r in zip(b.reshape(-1).tolist(), a.reshape(-1).tolist(), strict=True)
        )


# Each of these faults must be found, or the tests above say nothing.


def planted(name, function):
    """`name` carried out by `function(rule, m, *args)` instead of its rule."""
    op = find_op(name)
    rule = RULES[op]
    broken = Rule(kind=rule.kind, function=lambda *a, **k: function(rule, *a, **k), symbols=rule.symbols)
    return mock.patch.dict(registry.RULES, {op: broken})


def judge_named(name):
    op = next(o for o in op_db if o.name == name)
    return judge(op)


def test_a_result_that_is_one_off_is_found():
    def one_more(rule, m, *args, **kwargs):
        return rule.function(m, *args, **kwargs) + 1

    assert judge_named("mul").outcome == "exact"
    with planted("mul.Tensor", one_more):
        assert judge_named("mul").outcome == "wrong"


def test_a_result_in_float32_is_found():
    def rounded(_rule, m, x, y):
        return m.residue(m.field.reduce_((x.tensor.float() @ y.tensor.float()).double()))

    with planted("mm.default", rounded):
        assert judge_named("mm").outcome == "wrong"


def test_an_unreduced_result_is_found():
    def unreduced(_rule, m, x, y, **_kwargs):
        return m.residue(x.tensor * y.tensor)

    with planted("mul.Tensor", unreduced):
        assert judge_named("mul").outcome != "exact"


def test_the_representatives_order_in_place_of_the_keyed_one_is_found():
    def native(_rule, m, x, *args, **kwargs):
        values, indices = torch.topk(x.tensor, *args, **{k: v for k, v in kwargs.items() if k != "symbols"})
        return m.residue(values), indices

    assert judge_named("topk").how == "order"
    with planted("topk.default", native):
        assert judge_named("topk").outcome == "wrong"


def test_a_backward_that_is_not_linear_is_found():
    def squared(rule, m, grad, *args, **kwargs):
        return rule.function(m, grad * grad, *args, **kwargs)

    assert judge_named("nn.functional.gelu").outcome == "exact"
    with planted("gelu_backward.default", squared):
        assert judge_named("nn.functional.gelu").outcome == "wrong"


def test_an_oracle_that_depends_on_the_layout_is_found():
    def by_layout(rule, m, x, *args, **kwargs):
        found = rule.function(m, x, *args, **kwargs)
        return found if x.tensor.is_contiguous() else found + 1

    assert judge_named("logsumexp").outcome == "exact"
    with planted("logsumexp.default", by_layout):
        assert judge_named("logsumexp").outcome == "wrong"


@pytest.mark.parametrize(("argument", "code"), [("--help", 0), ("--no-such-option", 2)])
def test_the_command_writes_nothing_where_it_judges_nothing(argument, code, monkeypatch, capsys):
    before = DOCS.stat().st_mtime_ns
    monkeypatch.setattr(sys, "argv", ["op_db", argument])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == code
    assert "usage: python -m tests.exact.op_db" in "".join(capsys.readouterr())
    assert DOCS.stat().st_mtime_ns == before
