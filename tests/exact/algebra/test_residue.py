"""Residues against Python's integers."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.exact.algebra.residues import FIELD, PRIME, M, drawn, modulo, residue, same

from shardproof.exact.algebra.residue import Residue

extreme = st.sampled_from([-FIELD.half, FIELD.half, 0, 1, -1]) | st.integers(-FIELD.half, FIELD.half)
triples = st.lists(st.tuples(extreme, extreme, extreme), min_size=1, max_size=8)


@settings(max_examples=100, deadline=None)
@given(triples, extreme)
def test_operators_are_those_of_integers(rows, number):
    a, b, c = (torch.tensor(column) for column in zip(*rows, strict=True))
    x, y, z = (residue(t.double()) for t in (a, b, c))
    assert same(x + y, a + b)
    assert same(x - y, a - b)
    assert same(number - x, number - a)
    assert same(y.__rsub__(x), a - b)
    assert same(-x, -a)
    assert same(x * y, a * b)
    assert same(x * number, a * number)
    assert same(x.plus(y, times=number), a + number * b)
    assert same(z.plus_product(x, y), c + a * b)
    assert same(z.plus_product(x, number), c + a * number)
    assert same(x.interpolated(y, number), a + number * (b - a))
    assert same(x.interpolated(y, z), a + modulo(c * (b - a)))
    assert same(x**3, modulo(a * a) * a)
    assert same(x.sum_of_products(y), modulo(a * b).sum())
    assert same(x.sum(), a.sum())
    assert same(
        residue(x.tensor.view(1, -1)).matmul(residue(y.tensor.view(-1, 1)), plus=residue(z.tensor[:1])),
        modulo(a * b).sum().view(1, 1) + c[:1],
    )
    quotient = (x / y).tensor
    assert torch.equal(quotient.isnan(), b == 0)
    assert same(residue(quotient.nan_to_num()) * y, torch.where(b == 0, 0, a))
    assert (number % PRIME == 0) or same((x / number) * number, a)
    assert not same(x + 1, a)  # the control


def test_the_square_of_a_square_root_is_what_it_was_taken_of_in_sums_too():
    x = residue(drawn(5))
    root = x.sqrt()
    assert same(root.square(), x.tensor)
    assert same(root.sum_of_products(root), x.tensor.sum())
    again = Residue(root.tensor.view(5), root.degree, M, roots=True)  # what autograd hands back: another object
    assert root.is_same(again)
    assert not root.is_same(Residue(root.tensor.clone(), root.degree, M, roots=True))
    assert not root.is_same(Residue(root.tensor.flip(0), root.degree, M, roots=True))


def test_constants_are_lifted_once_and_alike():
    assert M.constant(0.25) == M.constant(0.25) == FIELD.representative(pow(4, -1, PRIME))
    assert M.constant(1) == M.constant(1.0) == 1
    assert M.constant(-0.5) == -M.constant(0.5)
