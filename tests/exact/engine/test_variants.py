"""In-place, `out=` and `_foreach_` forms, and the functional op that each is carried out by."""

import pytest
import torch
from tests.exact.engine.probes import drawn, same

from shardproof.exact.engine.variants import functional_of, is_written, puts_elements, without_out, written_arguments


def test_lists_of_tensors(exact):
    xs = [(drawn(3, seed=i) * 3).detach() for i in range(3)]
    ones = [x.clone() for x in xs]
    torch._foreach_add_(ones, xs, alpha=2)
    torch._foreach_mul_(ones, [2.0, 3.0, 4.0])
    torch._foreach_addcmul_(ones, xs, xs, 0.5)
    torch._foreach_addcdiv_(ones, xs, [x + 1 for x in xs], torch.tensor([1.0, 2.0, 3.0]))
    torch._foreach_lerp_(ones, xs, 0.25)
    norms = torch._foreach_norm(xs)
    for i, (x, one) in enumerate(zip(xs, ones, strict=True)):
        wanted = 3 * x * (2.0 + i) + 0.5 * x * x + (1.0 + i) * x / (x + 1)
        assert same(exact, one, wanted + 0.25 * (x - wanted))
        assert same(exact, norms[i], x.norm())
    torch._foreach_copy_(ones, xs)
    assert all(same(exact, a, b) for a, b in zip(ones, xs, strict=True))
    torch._foreach_zero_(ones)
    assert not any(exact.digits(one).any() for one in ones)


aten = torch.ops.aten
FORMS = {
    "in place": (aten.add_.Tensor, aten.add.Tensor),
    "in place with a number": (aten.mul_.Scalar, aten.mul.Scalar),
    "out": (aten.add.out, aten.add.Tensor),
    "relu_": (aten.relu_.default, aten.relu.default),
    "a functional op": (aten.add.Tensor, None),
    "a dunder": (aten.__and__.Tensor, None),
}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_leads_to_the_op_with_the_same_arguments(form):
    op, functional = FORMS[form]
    assert functional_of(op) is functional
    assert is_written(op) == (functional is not None)


def test_what_an_op_writes_into_and_what_is_left_without_it():
    x, out = torch.ones(2), torch.empty(2)
    assert written_arguments(aten.add_.Tensor, (x, x), {})[0] is x
    assert written_arguments(aten.add.out, (x, x), {"out": out})[0] is out
    assert written_arguments(aten.add.Tensor, (x, x), {}) == []
    assert without_out(aten.add.out, {"alpha": 2, "out": out}) == {"alpha": 2}


def test_an_index_put_puts_elements_unless_it_adds_them_up():
    put, x = torch.ops.aten.index_put.default, torch.ones(3)
    at = [torch.tensor([0])]
    assert puts_elements(put, (x, at, x), {})
    assert puts_elements(put, (x, at, x, False), {})
    assert not puts_elements(put, (x, at, x, True), {})
    assert not puts_elements(put, (x, at, x), {"accumulate": True})
    assert puts_elements(torch.ops.aten.put.default, (x, at[0], x), {"accumulate": False})
    assert not puts_elements(torch.ops.aten.add.Tensor, (x, x), {})
