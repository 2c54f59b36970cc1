"""Selections by the keyed order and comparisons, against Python's lists."""

from dataclasses import replace

import pytest
import torch
from tests.exact.algebra.residues import M, drawn, residue
from tests.exact.rules.formulas import (
    check_two,
)
from tests.exact.rules.integers import ORACLES as O
from tests.exact.rules.integers import Z, check, mode, nested, sixteenths

from shardproof.exact import ExactArithmetic
from shardproof.exact.algebra.degree import CONSTANT, VARIABLE
from shardproof.exact.algebra.lift import LOWEST, NEGATIVE_INFINITY
from shardproof.exact.rules.order import from_ranks, order_of, to_ranks
from shardproof.exact.rules.piecewise import at_least, at_most
from shardproof.exact.rules.registry import RULES, find_op

ROWS, COLUMNS = 3, 6


def leaf(start=0, shape=(ROWS, COLUMNS)):
    numbers = sixteenths(torch.Size(shape).numel(), start)
    x = torch.tensor([float(n) for n in numbers], dtype=torch.float64).reshape(shape).requires_grad_()
    return x, nested(map(Z, numbers), *shape)


def in_order(row):
    """The places of a row's elements in the keyed order, first to last."""
    return sorted(range(len(row)), key=lambda i: O.order(row[i]))


# name: (values and indices of a matrix's rows, the places that each row's order gives)
CHOICES = {
    "max": (lambda x: x.max(1), lambda order: [order[-1]]),
    "min": (lambda x: x.min(1), lambda order: [order[0]]),
    "sort": (lambda x: x.sort(1), lambda order: order),
    "sort descending": (lambda x: x.sort(1, descending=True), lambda order: order[::-1]),
    "topk": (lambda x: x.topk(2, 1), lambda order: order[:-3:-1]),
    "topk of the least": (lambda x: x.topk(2, 1, largest=False), lambda order: order[:2]),
    "kthvalue": (lambda x: x.kthvalue(3, 1), lambda order: [order[2]]),
    "median": (lambda x: x.median(1), lambda order: [order[2]]),
    "argmax": (lambda x: (x.amax(1), x.argmax(1)), lambda order: [order[-1]]),
    "argmin": (lambda x: (x.amin(1), x.argmin(1)), lambda order: [order[0]]),
    "argsort": (lambda x: (x.sort(1)[0], x.argsort(1)), lambda order: order),
}


@pytest.mark.parametrize("name", CHOICES)
def test_a_choice_by_order_and_its_gradient(name):
    function, places = CHOICES[name]
    x, rows = leaf()
    with mode() as exact:
        values, indices = function(x)
        found = exact.digits(values)
        slopes = exact.digits(torch.autograd.grad(values.sum(), x)[0])
    chosen = [places(in_order(row)) for row in rows]
    assert indices.reshape(-1).tolist() == [i for row in chosen for i in row]
    check(found, [[row[i] for i in at] for row, at in zip(rows, chosen, strict=True)])
    check(slopes, [[Z(i in at) for i in range(COLUMNS)] for at in chosen])


def test_the_order_is_not_that_of_the_representatives():
    x, rows = leaf()
    with mode():
        indices = x.max(1).indices.tolist()
    assert indices == [in_order(row)[-1] for row in rows]
    assert indices != [max(range(COLUMNS), key=lambda i, row=row: row[i].balanced) for row in rows]


COMPARISONS = {
    "lt": (torch.lt, lambda a, b: a < b),
    "le": (torch.le, lambda a, b: a <= b),
    "gt": (torch.gt, lambda a, b: a > b),
    "ge": (torch.ge, lambda a, b: a >= b),
    "eq": (torch.eq, lambda a, b: a == b),
    "ne": (torch.ne, lambda a, b: a != b),
}


@pytest.mark.parametrize("name", COMPARISONS)
def test_comparisons_with_a_tensor_a_number_and_itself(name):
    function, compare = COMPARISONS[name]
    (x, rows), (y, others) = leaf(), leaf(40)
    with mode():
        pairs = function(x, y)
        half = function(x, 0.5)
        itself = function(x, x)
    flat = [(a, b) for r, s in zip(rows, others, strict=True) for a, b in zip(r, s, strict=True)]
    assert pairs.reshape(-1).tolist() == [compare(O.order(a), O.order(b)) for a, b in flat]
    assert half.reshape(-1).tolist() == [compare(O.order(a), O.order(Z(0.5))) for a, _ in flat]
    assert itself.reshape(-1).tolist() == [compare(0, 0)] * len(flat)


# name: (torch function of two tensors, its values, its derivatives by the first and the second)
TWO = {
    "maximum": (
        torch.maximum,
        lambda x, y: O.largest([x, y]),
        lambda x, y: Z(O.order(x) > O.order(y)),
        lambda x, y: Z(O.order(y) > O.order(x)),
    ),
    "minimum": (
        torch.minimum,
        lambda x, y: min(x, y, key=O.order),
        lambda x, y: Z(O.order(x) < O.order(y)),
        lambda x, y: Z(O.order(y) < O.order(x)),
    ),
}


@pytest.mark.parametrize("name", TWO)
def test_a_function_of_two_numbers(name):
    check_two(*TWO[name])


def by_rule(name, *operands, **kwargs):
    return RULES[find_op(name)].function(M, *operands, **kwargs)


def constant(numbers):
    """Residues that are known to stand for these numbers."""
    real = torch.tensor(numbers, dtype=torch.float64)
    digits = [M.field.representative(M.constant(float(x))) for x in real.reshape(-1)]
    return replace(M.residue(torch.tensor(digits, dtype=torch.float64).view(real.shape)), value=real)


# Symbols --------------------------------------------------------------------------------------------------------------


def with_symbols(*shape):
    x = drawn(*shape)
    x[0, 0], x[0, 1], x[1, 1] = NEGATIVE_INFINITY, LOWEST, LOWEST
    return x


@pytest.mark.parametrize("make", [drawn, with_symbols])
def test_ranks_are_mapped_back_to_their_elements(make):
    x = make(4, 5)
    ranks = to_ranks(M, x)
    assert torch.equal(from_ranks(M, ranks), x)
    plain = x.abs() <= M.field.half
    assert torch.equal(ranks[~plain], x[~plain])  # symbols come before all ranks
    assert bool((ranks[plain].abs() <= M.field.half).all())
    assert not torch.equal(ranks[plain], x[plain])


def test_symbols_are_equal_to_their_own_kind_alone():
    x = residue(with_symbols(2, 3))
    infinite, lowest = x.tensor == NEGATIVE_INFINITY, x.tensor == LOWEST
    assert (int(infinite.sum()), int(lowest.sum())) == (1, 2)
    for number, same in (
        (NEGATIVE_INFINITY, infinite),
        (torch.finfo(torch.float32).min, lowest),
        (torch.finfo(torch.float64).min, lowest),
        (float("inf"), torch.zeros(2, 3, dtype=torch.bool)),
        (float("nan"), torch.zeros(2, 3, dtype=torch.bool)),
    ):
        assert torch.equal(by_rule("eq.Scalar", x, number, symbols=True), same)
        assert torch.equal(by_rule("ne.Scalar", x, number, symbols=True), ~same)


def test_infinities_and_the_lowest_number_stand_beyond_all_ranks():
    x = residue(with_symbols(2, 3))
    infinite, symbolic = x.tensor == NEGATIVE_INFINITY, x.tensor <= LOWEST
    none = torch.zeros(2, 3, dtype=torch.bool)
    assert torch.equal(by_rule("lt.Scalar", x, float("inf"), symbols=True), ~none)
    assert torch.equal(by_rule("gt.Scalar", x, NEGATIVE_INFINITY, symbols=True), ~infinite)
    assert torch.equal(by_rule("gt.Scalar", x, torch.finfo(torch.float32).min, symbols=True), ~symbolic)
    assert torch.equal(by_rule("lt.Scalar", x, NEGATIVE_INFINITY, symbols=True), none)


# Constants ------------------------------------------------------------------------------------------------------------

NUMBERS = [[0.25, -3.0, 7.0], [0.5, 0.25, -0.125]]


@pytest.mark.parametrize(
    ("name", "arguments", "wanted"),
    [
        ("sort.default", (1,), [[-3.0, 0.25, 7.0], [-0.125, 0.25, 0.5]]),
        ("max.dim", (1,), [7.0, 0.5]),
        ("amin.default", ([0],), [0.25, -3.0, -0.125]),
        ("topk.default", (2, 1), [[7.0, 0.25], [0.5, 0.25]]),
    ],
)
def test_constants_are_chosen_by_the_order_of_the_reals(name, arguments, wanted):
    found = by_rule(name, constant(NUMBERS), *arguments)
    found = found[0] if isinstance(found, tuple | list) else found
    assert torch.equal(found.tensor, constant(wanted).tensor)
    assert found.degree == CONSTANT
    indices = getattr(torch.ops.aten, name.partition(".")[0])(torch.tensor(NUMBERS), *arguments)[1]
    assert name == "amin.default" or torch.equal(by_rule(name, constant(NUMBERS), *arguments)[1], indices)


def test_one_operand_whose_numbers_are_unknown_brings_the_keyed_order():
    known, unknown = constant(NUMBERS), residue(drawn(2, 3))
    assert order_of(M, [known, known]).certain
    order = order_of(M, [known, unknown])
    assert not order.certain
    assert [torch.equal(one, to_ranks(M, x.tensor)) for one, x in zip(order.ranks, (known, unknown), strict=True)] == [
        True,
        True,
    ]
    assert torch.equal(order.back(order.ranks[1]), unknown.tensor)


def test_the_larger_of_two_constants_is_that_of_the_reals():
    x, y = constant(NUMBERS), constant([[0.5, -2.0, 6.0], [0.5, 0.125, 0.0]])
    for name, wanted in (
        ("maximum.default", torch.maximum(x.value, y.value)),
        ("minimum.default", torch.minimum(x.value, y.value)),
    ):
        found = by_rule(name, x, y, symbols=True)
        assert torch.equal(found.value, wanted)
        assert torch.equal(found.tensor, constant(wanted.tolist()).tensor)
        assert found.degree == CONSTANT


@pytest.mark.parametrize(
    ("name", "limited"), [("maximum.default", at_least), ("fmax.default", at_least), ("minimum.default", at_most)]
)
def test_of_a_constant_and_a_residue_the_larger_is_a_clamp(name, limited):
    x, limits = residue(drawn(2, 3)), constant(NUMBERS)
    wanted = limited(M, x, limits)
    for operands in ((x, limits), (limits, x)):
        found = by_rule(name, *operands, symbols=False)
        assert torch.equal(found.tensor, wanted.tensor)
        assert found.degree == wanted.degree
    by_order = by_rule(name, x, limits, symbols=True)  # with symbols it is a choice
    assert not torch.equal(by_order.tensor, wanted.tensor)
    assert by_order.degree == VARIABLE.selected_from(2)
    assert by_rule(name, limits, x, symbols=True).degree == VARIABLE.selected_from(2)


def test_of_two_residues_the_larger_is_a_choice_that_has_the_degree_of_either():
    x, y = residue(drawn(2, 3, seed=1)), M.residue(drawn(2, 3, seed=2), VARIABLE.power(3))
    for operands in ((x, y), (y, x)):
        found = by_rule("maximum.default", *operands, symbols=False)
        assert found.degree == VARIABLE.power(3).selected_from(2)
        assert torch.equal(to_ranks(M, found.tensor), torch.maximum(*(to_ranks(M, z.tensor) for z in operands)))


@pytest.mark.parametrize("low", [None, 1])
@pytest.mark.parametrize("high", [None, 2])
def test_a_clamp_between_tensors_is_the_larger_and_then_the_smaller(low, high):
    x = residue(drawn(2, 3))
    low, high = (None if seed is None else residue(drawn(2, 3, seed=seed)) for seed in (low, high))
    wanted = x if low is None else by_rule("maximum.default", x, low, symbols=False)
    wanted = wanted if high is None else by_rule("minimum.default", wanted, high, symbols=False)
    found = by_rule("clamp.Tensor", x, low, high, symbols=False)
    assert torch.equal(found.tensor, wanted.tensor)
    assert torch.equal(found.tensor, x.tensor) is (low is high)


def test_a_clamp_takes_symbols():
    x, _ = leaf()
    mask = torch.zeros(ROWS, COLUMNS, dtype=torch.float64).masked_fill(torch.eye(ROWS, COLUMNS) > 0, NEGATIVE_INFINITY)
    with mode() as exact:
        least = exact.digits(torch.clamp(x, max=mask), symbols=True)
        assert torch.equal(least, exact.digits(x.minimum(mask), symbols=True))
        assert torch.equal(least[mask < 0], exact.digits(mask, symbols=True)[mask < 0])
        assert bool((exact.digits(torch.clamp(x, min=mask)) == exact.digits(x))[mask < 0].all())


# Truth values, and what is recorded -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "function",
    [
        torch.logical_not,
        lambda x: torch.logical_and(x, x.flip(0)),
        lambda x: torch.logical_or(x, x.flip(0)),
        lambda x: torch.logical_xor(x, x.flip(0)),
        torch.all,
        lambda x: x.all(1),
        torch.any,
        lambda x: x.any(1),
        torch.count_nonzero,
        lambda x: x.count_nonzero(1),
        torch.nonzero,
        torch.isnan,
        torch.isinf,
    ],
    ids=range(13),
)
def test_a_residue_that_is_not_zero_is_true(function):
    values = torch.tensor([[0.0, 1.0, 2.0], [0.0, 0.0, 0.0], [4.0, 5.0, 6.0]], dtype=torch.float64)
    x = values.clone().requires_grad_()
    with mode():
        found = function(x * 3 - x * 2)
    assert torch.equal(found, function(values))
    assert not all(torch.equal(found, function(other)) for other in (values * 0, values + 1, values / 0))


@pytest.mark.parametrize(
    "function",
    [
        *COMPARISONS.values(),
        (torch.maximum,),
        (torch.fmin,),
        (lambda x, y: torch.clamp(x, min=y),),
        (lambda x, _: x.max(1)[0],),
        (lambda x, _: x.sort(1)[0],),
        (torch.logical_and,),
        (lambda x, _: x.nonzero(),),
    ],
    ids=range(13),
)
def test_what_was_compared_is_recorded(function):
    (x, _), (y, _) = leaf(), leaf(40)
    with ExactArithmetic(seed=5, record_selections=True) as exact:
        assert not exact.selections
        exact.digits(x + y)
        assert not exact.selections
        function[0](x, y)
        assert len(exact.selections) == 1
        assert torch.equal(exact.selections[0].operands[0], exact.digits(x))
