"""Residues against Python's integers."""

import dataclasses
from math import isnan

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.exact.algebra.residues import FIELD, PRIME, M, check_value_class, drawn, modulo, residue, same

from shardproof.exact.algebra.cut import Cut
from shardproof.exact.algebra.degree import CONSTANT, VARIABLE, Degree
from shardproof.exact.algebra.lift import Lift
from shardproof.exact.algebra.residue import VOID, Arithmetic, LogTerms, Pieces, Residue, Threshold

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


# Method by method: values, degrees, divisions by zero, and what is known besides --------------------------------------

HALF = FIELD.half
D = Degree(over=2.0, under=3.0, gates=1.0)
E = Degree(over=5.0, under=1.0)


def arithmetic():
    """An arithmetic of its own, so that divisions by zero are counted from none; the tables are shared."""
    return Arithmetic(field=FIELD, oracles=M.oracles, lift=Lift(field=FIELD))


def of(m, *numbers, degree=D, **known):
    return dataclasses.replace(m.residue(torch.tensor(numbers, dtype=torch.float64), degree), **known)


def inverse_of(number):
    return FIELD.representative(pow(number % PRIME, -1, PRIME))


X, Y = (3, -HALF, 0, 7), (HALF, 2, 5, -1)


def elementwise(function):
    return [FIELD.representative(function(x, y)) for x, y in zip(X, Y, strict=True)]


OPERATIONS = {
    "x + y": (lambda x, y: x + y, lambda x, y: x + y, D + E),
    "x + 4": (lambda x, y: x + 4, lambda x, y: x + 4, D + CONSTANT),
    "4 + x": (lambda x, y: 4 + x, lambda x, y: x + 4, D + CONSTANT),
    "-x": (lambda x, y: -x, lambda x, y: -x, D),
    "x - y": (lambda x, y: x - y, lambda x, y: x - y, D + E),
    "x - 4": (lambda x, y: x - 4, lambda x, y: x - 4, D + CONSTANT),
    "4 - x": (lambda x, y: 4 - x, lambda x, y: 4 - x, D + CONSTANT),
    "plus": (lambda x, y: x.plus(y, times=-3), lambda x, y: x - 3 * y, D + E),
    "plus product": (lambda x, y: x.plus_product(y, x), lambda x, y: x + y * x, D + E * D),
    "plus product by a number": (lambda x, y: x.plus_product(y, 6), lambda x, y: x + y * 6, D + E),
    "x * y": (lambda x, y: x * y, lambda x, y: x * y, D * E),
    "x * 4": (lambda x, y: x * 4, lambda x, y: x * 4, D),
    "4 * x": (lambda x, y: 4 * x, lambda x, y: x * 4, D),
    "scaled": (lambda x, y: x.scaled(4), lambda x, y: x * 4, D),
    "x / y": (lambda x, y: x / y, lambda x, y: x * pow(y, -1, PRIME), D * E.inverse()),
    "x / 4": (lambda x, y: x / 4, lambda x, y: x * pow(4, -1, PRIME), D),
    "x / 1": (lambda x, y: x / 1, lambda x, y: x, D),
    "4 / y": (lambda x, y: 4 / y, lambda x, y: 4 * pow(y, -1, PRIME), E.inverse()),
    "interpolated": (lambda x, y: x.interpolated(y, 4), lambda x, y: x + 4 * (y - x), D + (E + D)),
    "interpolated by itself": (lambda x, y: x.interpolated(y, y), lambda x, y: x + y * (y - x), D + (E + D) * E),
    "x ** 1": (lambda x, y: x**1, lambda x, y: x, D),
    "x ** 5": (lambda x, y: x**5, lambda x, y: x**5, D.power(5)),
    "x ** 6": (lambda x, y: x**6, lambda x, y: x**6, D.power(6)),
    "x ** 0": (lambda x, y: x**0, lambda x, y: 1, CONSTANT),
    "y ** -3": (lambda x, y: y**-3, lambda x, y: pow(y, -3, PRIME), E.inverse().power(3)),
    "y ** -1": (lambda x, y: y**-1, lambda x, y: pow(y, -1, PRIME), E.inverse()),
    "square": (lambda x, y: x.square(), lambda x, y: x * x, D * D),
    "inverse": (lambda x, y: y.inverse(), lambda x, y: pow(y, -1, PRIME), E.inverse()),
    "moved": (lambda x, y: x.moved(torch.Tensor.clone), lambda x, y: x, D),
    "masked": (
        lambda x, y: x.masked(torch.tensor([True, True, False, False])),
        lambda x, y: x if x in (3, -HALF) else 0,
        D,
    ),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_values_and_the_degree_of_an_operation(name):
    function, value, degree = OPERATIONS[name]
    m = arithmetic()
    found = function(of(m, *X), of(m, *Y, degree=E))
    assert found.tensor.tolist() == elementwise(value)
    assert found.degree == degree
    assert found.of is m
    assert not found.roots
    assert not found.has_companion
    assert m.zero_divisions == 0


def test_scaling_by_one_is_no_pass_over_memory():
    x = of(arithmetic(), *X)
    assert x.scaled(1) is x
    assert (x / 1).tensor is not x.tensor


SHAPED = ((3, -2, 7), (HALF, 5, HALF))
SUMS = {
    "all": (None, (), [HALF + 5 + HALF + 8]),
    "an empty list is all": ([], (), [HALF + 5 + HALF + 8]),
    "the first": (0, (3,), [3 + HALF, 3, 7 + HALF]),
    "the last": (-1, (2,), [8, 5 + 2 * HALF]),
    "a list": ([1], (2,), [8, 5 + 2 * HALF]),
    "both": ((0, 1), (), [HALF + 5 + HALF + 8]),
}


@pytest.mark.parametrize("keepdim", [False, True])
@pytest.mark.parametrize("name", SUMS)
def test_sums_and_means(name, keepdim):
    dims, shape, wanted = SUMS[name]
    x = of(arithmetic(), *SHAPED)
    found, mean = x.sum(dims, keepdim=keepdim), x.mean(dims, keepdim=keepdim)
    count = 6 // len(wanted)
    over = {0, 1} if dims in (None, [], (0, 1)) else {0} if dims == 0 else {1}
    kept = tuple(1 if d in over else n for d, n in enumerate((2, 3)))
    assert found.shape == mean.shape == (kept if keepdim else shape)
    assert found.tensor.reshape(-1).tolist() == [FIELD.representative(n) for n in wanted]
    assert mean.tensor.reshape(-1).tolist() == [FIELD.representative(n * inverse_of(count)) for n in wanted]
    assert found.degree == mean.degree == D.sum_of(count)
    squares = x.sum_of_products(x, dims, keepdim=keepdim)
    assert squares.shape == found.shape
    assert squares.degree == (D * D).sum_of(count)
    assert torch.equal(squares.tensor, (x * x).sum(dims, keepdim=keepdim).tensor)


def test_a_sum_of_one_number_is_another_memory():
    x = of(arithmetic(), 3.0).moved(lambda t: t[0])
    total = x.sum()
    assert total.tensor.tolist() == 3
    assert total.tensor is not x.tensor
    assert total.degree == D
    assert x.mean().tensor.tolist() == 3


def test_a_sum_over_nothing_is_zero():
    x = of(arithmetic(), *SHAPED).moved(lambda t: t[:0])
    assert x.sum().tensor.tolist() == 0
    assert x.sum(0).tensor.tolist() == [0, 0, 0]
    assert x.sum_of_products(x).tensor.tolist() == 0


@pytest.mark.parametrize(("shape", "dim"), [((0, 3), 1), ((3, 0), 1), ((0,), 0)])
def test_a_sum_may_have_no_elements_or_no_summands(shape, dim):
    found = residue(torch.zeros(shape, dtype=torch.float64)).sum(dim)
    assert torch.equal(found.tensor, torch.zeros(shape, dtype=torch.float64).sum(dim))
    assert found.degree == VARIABLE


def test_a_sum_of_products_broadcasts():
    m = arithmetic()
    found = of(m, *SHAPED).sum_of_products(of(m, 1, 2, 3, degree=E), -1)
    assert found.tensor.tolist() == [FIELD.representative(n) for n in (3 - 4 + 21, HALF + 10 + 3 * HALF)]
    assert found.degree == (D * E).sum_of(3)


def test_matrix_products_and_their_degree():
    m = arithmetic()
    a, b = of(m, *SHAPED), of(m, (1, 2), (HALF, -1), (0, 4), degree=E)
    c = of(m, 10, 20, degree=VARIABLE)
    rows, columns = SHAPED, ((1, HALF, 0), (2, -1, 4))
    wanted = [[sum(x * y for x, y in zip(r, k, strict=True)) for k in columns] for r in rows]
    assert (a @ b).tensor.tolist() == [[FIELD.representative(n) for n in row] for row in wanted]
    assert (a @ b).degree == (D * E).sum_of(3)
    more = a.matmul(b, plus=c)
    assert more.tensor.tolist() == [
        [FIELD.representative(n + p) for n, p in zip(row, (10, 20), strict=True)] for row in wanted
    ]
    assert more.degree == VARIABLE + (D * E).sum_of(3)


def test_a_batch_of_products_has_the_degree_of_its_inner_dim():
    m = arithmetic()
    a, b = m.residue(drawn(2, 3, 4), D), m.residue(drawn(2, 4, 5, seed=1), E)
    found = a @ b
    assert found.degree == (D * E).sum_of(4)
    assert torch.equal(found.tensor[1].long(), modulo(a.tensor[1].long() @ b.tensor[1].long()))


def test_shapes_are_the_tensors():
    x = of(arithmetic(), *SHAPED)
    assert (x.shape, x.ndim, x.numel()) == ((2, 3), 2, 6)
    assert x.transpose().tensor.tolist() == [list(column) for column in zip(*SHAPED, strict=True)]
    assert x.moved(lambda t: t.unsqueeze(-1)).transpose(0, 1).shape == (3, 2, 1)
    assert x.transpose().degree == D
    row = of(arithmetic(), 1, 2, 3, degree=E)
    assert row.expand_as(x).tensor.tolist() == [[1, 2, 3], [1, 2, 3]]
    assert row.expand_as(x).degree == E


def test_the_same_view_is_known_and_another_is_not():
    x = of(arithmetic(), *SHAPED)
    again = Residue(x.tensor[:], x.degree, M)
    assert x.is_same(x)
    assert x.is_same(again)
    assert not x.is_same(3)
    assert not x.is_same(Residue(x.tensor.clone(), x.degree, M))  # equal, elsewhere
    assert not x.is_same(Residue(x.tensor[:1], x.degree, M))  # a part that starts alike
    assert not x.is_same(Residue(x.tensor.as_strided((2, 3), (1, 1)), x.degree, M))  # strides


# Divisions by zero ----------------------------------------------------------------------------------------------------


def known(tensor):
    """The elements as integers, None for a void one."""
    return [None if isnan(x) else int(x) for x in tensor.reshape(-1).tolist()]


def test_each_division_by_zero_is_counted_and_leaves_a_void_element():
    m = arithmetic()
    x = of(m, 0, 2, 0, 5)
    assert known(x.inverse().tensor) == [None, inverse_of(2), None, inverse_of(5)]
    assert m.zero_divisions == 2
    assert known((x / 0).tensor) == [None] * 4
    assert m.zero_divisions == 3
    assert known((x / PRIME).tensor) == [None] * 4
    assert m.zero_divisions == 4
    assert (1 / x).degree == D.inverse()
    assert m.zero_divisions == 6
    found = x.log()
    assert m.zero_divisions == 8
    assert [n is None for n in known(found.tensor)] == [True, False, True, False]
    assert known(found.exp().tensor) == [0, 2, 0, 5]  # of the logarithm, as it is known
    x.sum().inverse()
    assert m.zero_divisions == 8


@pytest.mark.parametrize("name", ["oracle", "odd", "even", "exp", "sqrt", "inverse", "log", "sum", "product"])
def test_what_is_computed_from_a_void_element_is_void(name):
    m = arithmetic()
    x = of(m, 3, 0, 5).inverse()
    found = {
        "oracle": lambda: x.oracle("f"),
        "odd": lambda: x.odd_oracle("f"),
        "even": lambda: x.even_oracle("f", at_zero=1),
        "exp": x.exp,
        "sqrt": x.sqrt,
        "inverse": x.inverse,
        "log": x.log,
        "sum": lambda: x + 1,
        "product": lambda: x * x,
    }[name]()
    assert [n is None for n in known(found.tensor)] == [False, True, False]
    assert m.zero_divisions == 1  # nothing was divided by zero once more
    assert [n is None for n in known(x.tensor)] == [False, True, False]  # the operand is as it was


def test_a_rule_that_divides_nothing_by_zero_takes_no_void_element():
    """Its operands are free of them: NaN there has come from elsewhere, and is refused."""
    m = arithmetic()
    bad = of(m, float("nan"), 1.0)
    with pytest.raises(FloatingPointError, match="no residue"):
        m.look_up(m.oracles.exp(), bad.tensor)
    m.zero_divisions = 1
    assert known(m.look_up(m.oracles.exp(), bad.tensor))[0] is None
    m.divided_before = 1
    with pytest.raises(FloatingPointError, match="no residue"):
        m.look_up(m.oracles.exp(), bad.tensor)


def test_a_void_element_is_far_beyond_every_residue_as_an_integer():
    assert VOID == 2**40 > 2**23


# Oracles --------------------------------------------------------------------------------------------------------------


def test_an_oracle_is_its_table():
    m = arithmetic()
    x, o = of(m, *X), m.oracles
    pairs = {
        "any": (x.oracle("f"), o.permutation("f")),
        "gate": (x.gate(above=True), o.gate(at_zero=0)),
        "gate that is one at zero": (x.gate(above=False), o.gate(at_zero=1)),
        "odd": (x.odd_oracle("f"), o.odd("f")),
        "even": (x.even_oracle("f", at_zero=4), o.even("f", at_zero=4)),
    }
    for name, (found, table) in pairs.items():
        assert torch.equal(found.tensor, o.look_up(table, x.tensor))
        # a gate is (1 + s(x)) / 2, and no product of variables
        assert found.degree == dataclasses.replace(D.oracle(), monomial="gate" not in name)


def test_exp_and_log_undo_each_other_and_know_their_degrees():
    m = arithmetic()
    x = of(m, *X)
    assert torch.equal(x.exp().tensor, m.oracles.look_up(m.oracles.exp(), x.tensor))
    assert x.exp().degree == D.exp()
    assert torch.equal(x.exp().log().tensor, x.tensor)
    logarithm = of(m, *Y).log()
    assert torch.equal(logarithm.exp().tensor, of(m, *Y).tensor)
    assert logarithm.degree == D.log()
    assert logarithm.exp().degree == D  # known, and not looked up


def test_the_sigmoid_is_its_formula():
    x = of(arithmetic(), *X)
    assert torch.equal((x.sigmoid() * (1 + (-x).exp())).tensor, torch.ones(4).double())
    assert x.sigmoid().degree == (CONSTANT + D.exp()).inverse()


def test_the_exponential_of_a_sum_with_a_logarithm_and_a_shift_is_a_product():
    m = arithmetic()
    x, y, shift = of(m, *X), of(m, 2, -9, 400, 11, degree=E), of(m, 5, 6, 7, 8)
    less = x - y.log()
    found = dataclasses.replace(less, logs=LogTerms(rest=D, unit=y.inverse()))
    assert torch.equal(found.exp().tensor, (x.exp() / y).tensor)
    assert torch.equal(found.rest().tensor, x.tensor)
    assert found.rest().degree == D
    assert found.has_companion
    shifted = dataclasses.replace(x - shift, logs=LogTerms(rest=D, shifts=(-shift,)))
    assert torch.equal(shifted.exp().tensor, (x.exp() / shift.exp()).tensor)
    assert not torch.equal(shifted.exp().tensor, (x - shift).exp().tensor)  # E alone keeps no such law
    alone = dataclasses.replace(shift, logs=LogTerms(rest=None, shifts=(shift,)))
    assert torch.equal(alone.exp().tensor, shift.exp().tensor)
    assert not alone.rest().tensor.any()


def test_a_square_root_and_its_square():
    x = of(arithmetic(), *X)
    root = x.sqrt()
    assert root.roots
    assert root.degree == D.oracle()
    assert not torch.equal(root.tensor, x.tensor)
    for square in (root.square(), root.squared_root(), root.moved(torch.Tensor.clone).square()):
        assert torch.equal(square.tensor, x.tensor)
        assert square.degree == D.oracle().squared_root()
    assert root.tensor[2] == 0
    assert root.sum_of_products(root).tensor == x.sum().tensor
    assert root.sum_of_products(root, keepdim=True).shape == (1,)
    plain = Residue(root.tensor, root.degree, root.of)
    assert plain.sum_of_products(plain).tensor == (plain * plain).sum().tensor  # not known to be roots


@pytest.mark.parametrize("factor", [3, -2, 0.5])
def test_a_single_root_times_a_constant_knows_its_square(factor):
    m = arithmetic()
    x = of(m, 7).moved(lambda t: t[0])
    number = m.constant(factor)
    for scaled in (x.sqrt() * factor, factor * x.sqrt(), x.sqrt() / (1 / factor)):
        assert scaled.has_companion
        assert scaled.square().tensor == FIELD.representative(7 * number * number)
        assert scaled.square().degree == x.sqrt().square().degree
        assert scaled.sum_of_products(scaled).tensor == scaled.square().tensor
        again = scaled * 5
        assert again.square().tensor == FIELD.representative(7 * number * number * 25)
    assert not (x * factor).has_companion  # no root
    assert not (of(m, 7, 8).sqrt() * factor).has_companion  # several elements
    assert not (x.sqrt() * x.sqrt()).has_companion  # no constant


# The arithmetic -------------------------------------------------------------------------------------------------------


def test_a_value_of_an_arithmetic_is_a_constant_unless_said_otherwise():
    m = arithmetic()
    x = m.residue(drawn(2))
    assert x.degree is CONSTANT
    assert x.of is m
    assert (x.roots, x.logs, x.squared, x.value, x.has_companion) == (False, None, None, None, False)
    assert dataclasses.replace(x, value=x.tensor).has_companion
    assert (m.zero_divisions, m.divided_before, m.operands_void, m.cuts) == (0, 0, None, [])


def test_a_constant_is_lifted_once(monkeypatch):
    m = arithmetic()
    asked = []
    monkeypatch.setattr(Lift, "number", lambda _self, value: asked.append(value) or 5)
    assert (m.constant(0.3), m.constant(0.3), m.constant(0.5)) == (5, 5, 5)
    assert asked == [0.3, 0.5]


def test_residues_and_cuts_are_values():
    x = of(arithmetic(), *X)
    tensor, degree = x.tensor.clone(), dataclasses.replace(x.degree)
    for found in (x + x, 2 * x, -x, x - 1, x * x, x.square(), x.inverse(), x.exp(), x.sqrt(), x.sum(), x**3):
        assert found is not x
        assert torch.equal(x.tensor, tensor)
        assert x.degree == degree
    assert not hasattr(x, "__dict__")
    assert not hasattr(arithmetic(), "__dict__")
    assert x != of(arithmetic(), *X)  # no comparison of elements by accident
    check_value_class(Cut(name="h", residues=x.tensor.long(), degree=D, void=None), void=x.tensor)
    with pytest.raises(TypeError, match="positional argument"):
        Arithmetic(FIELD, M.oracles, Lift(field=FIELD))


@pytest.mark.parametrize(
    ("number", "lasting"), [(0.0, False), (1.0, True), (-1.0, True), (0.5, True), (None, False), ([0.0, 1.0], False)]
)
def test_pieces_last_where_one_of_them_is_a_number_that_is_not_zero(number, lasting):
    x = residue(drawn(2))
    known = None if number is None else torch.tensor(number, dtype=torch.float64)
    other = M.residue(torch.zeros(()) if known is None else known.double(), CONSTANT)
    pieces = Pieces(
        base=x, thresholds=(Threshold(0.0, above=True),), values=(x, dataclasses.replace(other, value=known))
    )
    assert pieces.lasting is lasting
    assert dataclasses.replace(pieces, of_exp=True).lasting
    assert pieces.each() == (x, *pieces.values)


def test_thresholds_ascend_and_of_one_number_the_one_at_it_comes_first():
    ascending = [Threshold(at, above=above) for at in (-1.0, 0.0, 2.0) for above in (False, True)]
    assert sorted(ascending[i] for i in (3, 1, 5, 0, 4, 2)) == ascending
