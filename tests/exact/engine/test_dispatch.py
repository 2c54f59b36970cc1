"""The dispatcher: which handler takes an op, and what is refused where none does."""

import pytest
import torch
import torch.nn.functional as F
from tests.exact.engine.probes import drawn, same
from torch import nn

from shardproof.exact import (
    ExactArithmetic,
    ExactArithmeticError,
    UnsupportedOpError,
    formula,
)
from shardproof.exact.engine.dispatch import HANDLERS
from shardproof.exact.rules.registry import RULES, find_op

# Default deny --------------------------------------------------------------------------------------------------------


class Halving(nn.Module):
    def forward(self, x):
        return torch.ops.shardproof_tests.halve(x)


class Outer(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Identity(), Halving()])

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


def test_an_unknown_op_is_refused_with_its_place_and_the_way_out():
    x = torch.randn(3)
    with pytest.raises(UnsupportedOpError) as caught, ExactArithmetic(seed=1):
        Outer()(x)
    message = str(caught.value)
    assert "shardproof_tests.halve.default has no exact rule" in message
    assert "in module Outer.layers.1" in message
    assert "test_dispatch.py" in message
    assert "in forward" in message
    assert "from shardproof.exact import formula" in message
    assert "@formula('shardproof_tests::halve.default')" in message
    assert "def rule(m, x, ...)" in message


def test_a_rule_can_be_added_as_the_refusal_says_and_taken_away():
    x, model = torch.randn(3), Outer()

    @formula("shardproof_tests::halve.default")
    def rule(m, x):
        return x / 2

    try:
        with ExactArithmetic(seed=1) as exact:
            assert same(exact, model(x), x * 0.5)
            assert not same(exact, model(x), x * 0.25)
    finally:
        del RULES[find_op("shardproof_tests::halve.default")]
    with pytest.raises(UnsupportedOpError), ExactArithmetic(seed=1):
        model(x)
    assert rule


def test_a_rule_for_an_op_that_is_not_there_says_so():
    with pytest.raises(ValueError, match=r"has no op 'no_such_op\.default'"):
        formula("no_such_op.default")(lambda m, x: x)


def test_an_in_place_form_is_refused_with_its_functional_op(exact):
    with pytest.raises(UnsupportedOpError, match=r"shardproof_tests\.halve\.default has no exact rule"):
        torch.ops.shardproof_tests.halve_(drawn(3).detach())


# Memory --------------------------------------------------------------------------------------------------------------


def test_autograd_accumulates_exactly(exact):
    x = drawn(3)
    (x * 2).sum().backward()
    first = x.grad
    stolen = exact.digits(first)
    (x * x).sum().backward(retain_graph=True)
    assert x.grad is first
    assert torch.equal(exact.digits(x.grad), exact.digits(2 + 2 * x))
    assert not torch.equal(exact.digits(x.grad), stolen)
    grads = torch.autograd.grad((x * x * x).sum(), x, create_graph=True)[0]
    assert same(exact, torch.autograd.grad(grads.sum(), x)[0], 6 * x)


# What is recorded and checked -----------------------------------------------------------------------------------------


def test_meta_and_fake_tensors_pass_untouched():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with ExactArithmetic(seed=1) as exact:
        meta = torch.empty(3, 4, device="meta", dtype=torch.bfloat16)
        product = meta @ meta.T
        assert (product.shape, product.dtype, product.is_meta) == ((3, 3), torch.bfloat16, True)
        assert nn.Linear(2, 3, device="meta").weight.dtype == torch.float32
        with FakeTensorMode():
            fake = torch.empty(3, 4) @ torch.empty(4, 5)
        assert fake.shape == (3, 5)
        real = torch.empty_like(meta, device="cpu")
        with pytest.raises(ExactArithmeticError, match="never written"):
            exact.digits(F.gelu(real * 2))


def test_the_profiler_may_watch():
    x = torch.randn(3, 4)
    with (
        ExactArithmetic(seed=1) as exact,
        torch.profiler.profile() as profile,
        torch.profiler.record_function("mine"),
    ):
        digits = exact.digits(x @ x.T)
    assert digits.shape == (3, 3)
    assert any(event.name == "mine" for event in profile.events())


def test_the_table_of_handlers_reads_as_a_list():
    names = [name for name, _ in HANDLERS]
    assert len(set(names)) == len(names)
    assert names.index("admit") < names.index("real constants alone") < names.index("ops that have a rule")
    assert names[-1] == "decompositions"


def test_a_handler_that_does_not_accept_leaves_the_op_to_the_next(monkeypatch):
    """Without the handler of rules an op with a rule is decomposed, or refused: nothing is computed with rounding."""
    x = torch.randn(3)
    left = tuple((name, handle) for name, handle in HANDLERS if name != "ops that have a rule")
    monkeypatch.setattr("shardproof.exact.engine.dispatch.HANDLERS", left)
    with pytest.raises(UnsupportedOpError), ExactArithmetic(seed=1):
        x.relu() * 2
