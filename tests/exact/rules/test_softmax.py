"""Softmax and log-softmax, forward and backward, against Python's integers."""

import pytest
import torch
import torch.nn.functional as F
from tests.exact.algebra.residues import FIELD, PRIME, M, drawn, modulo
from tests.exact.rules.formulas import (
    by_rows,
    check_gradient,
    check_matrix,
    total,
)
from tests.exact.rules.integers import ORACLES as O

from shardproof.exact import NotANumberError
from shardproof.exact.algebra.degree import CONSTANT, Degree
from shardproof.exact.rules.registry import RULES, SELECTIONS, find_op


def softmin(row):
    return O.softmax([-x for x in row])


# name: (torch function of a matrix, its values from rows of residues)
FORWARD = {
    "softmax": (lambda x: x.softmax(1), by_rows(O.softmax)),
    "softmin": (lambda x: F.softmin(x, dim=1), by_rows(softmin)),
    "log softmax": (lambda x: x.log_softmax(1), by_rows(lambda row: [x - O.logsumexp(row) for x in row])),
}


@pytest.mark.parametrize("name", FORWARD)
def test_a_function_of_a_matrix(name):
    check_matrix(*FORWARD[name])


def softmax_slope(row, grads):
    y = O.softmax(row)
    inner = total(a * b for a, b in zip(y, grads, strict=True))
    return [a * (g - inner) for a, g in zip(y, grads, strict=True)]


def log_softmax_slope(row, grads):
    return [g - y * total(grads) for g, y in zip(grads, O.softmax(row), strict=True)]


# name: (torch function of a matrix, the gradient of each row from its numbers and its cotangents)
BACKWARD = {
    "softmax": (lambda x: x.softmax(1), softmax_slope),
    "log softmax": (lambda x: x.log_softmax(1), log_softmax_slope),
}


@pytest.mark.parametrize("name", BACKWARD)
def test_the_gradient_of_a_function_of_rows(name):
    check_gradient(*BACKWARD[name])


# Rows, masks and degrees, by the rules themselves ---------------------------------------------------------------------

INFINITE, LOWEST = float("-inf"), torch.finfo(torch.float64).min
D = Degree(over=3.0, under=2.0, gates=1.0)


def rule(name):
    return RULES[find_op(name)].function


def residues(rows, degree=D):
    return M.residue(torch.tensor(rows, dtype=torch.float64), degree)


def exp_of(x):
    return M.oracles.look_up(M.oracles.exp(), x)


def by_definition(row):
    """The softmax of one row of small integers and symbols, in Python's integers."""
    exps = [int(exp_of(torch.tensor(float(x)))) if x >= -FIELD.half else 0 for x in row]
    inverse = pow(sum(exps), -1, PRIME)
    return [FIELD.representative(e * inverse) for e in exps]


ROWS_OF_MASKS = {
    "nothing masked": [3, -2, 7, 7],
    "minus infinity": [3, INFINITE, 7, INFINITE],
    "the lowest number": [3, LOWEST, 7, -2],
    "both": [INFINITE, LOWEST, 7, -2],
    "all but one": [INFINITE, INFINITE, 5, LOWEST],
}


@pytest.mark.parametrize("name", ROWS_OF_MASKS)
@pytest.mark.parametrize("dim", [0, 1, -1])
def test_masked_elements_have_no_part_in_their_row(name, dim):
    row = ROWS_OF_MASKS[name]
    rows = [row, row[::-1]]
    x = residues(rows) if dim in (1, -1) else residues(list(zip(*rows, strict=True)))
    found = rule("_softmax.default")(M, x, dim, False, symbols=True).tensor
    found = found if dim in (1, -1) else found.t()
    assert found.tolist() == [by_definition(r) for r in rows]
    logarithm = rule("_log_softmax.default")(M, x, dim, False, symbols=True)
    known = rule("exp.default")(M, logarithm, symbols=True).tensor
    assert torch.equal(known if dim in (1, -1) else known.t(), found)
    masked = x.tensor < -FIELD.half
    assert torch.equal(logarithm.tensor[masked], x.tensor[masked])
    assert bool((logarithm.tensor[~masked].abs() <= FIELD.half).all())


def test_masked_logarithms_are_differences_less_the_logarithm_of_the_sum():
    row = [3, INFINITE, 7, LOWEST]
    kept = rule("_log_softmax.default")(M, residues([[3, 7]]), 1, False, symbols=False)
    found = rule("_log_softmax.default")(M, residues([row]), 1, False, symbols=True)
    assert found.tensor.tolist()[0] == [kept.tensor[0, 0], INFINITE, kept.tensor[0, 1], LOWEST]


def test_a_row_of_nothing_but_the_lowest_number_is_uniform():
    x = residues([[LOWEST] * 4, [LOWEST, INFINITE, LOWEST, INFINITE]])
    found = rule("_softmax.default")(M, x, 1, False, symbols=True)
    quarter, half = FIELD.representative(pow(4, -1, PRIME)), FIELD.representative(pow(2, -1, PRIME))
    assert found.tensor.tolist() == [[quarter] * 4, [half, 0, half, 0]]


@pytest.mark.parametrize("name", ["_softmax.default", "_log_softmax.default"])
def test_a_row_of_nothing_but_minus_infinity_is_refused(name):
    with pytest.raises(NotANumberError, match="a row of nothing but -inf"):
        rule(name)(M, residues([[1, 2], [INFINITE, INFINITE]]), 1, False, symbols=True)


def test_attentions_own_softmax_of_nothing_is_zero():
    found = rule("_safe_softmax.default")(M, residues([[1, 2], [INFINITE, INFINITE]]), 1, symbols=True).tensor
    assert found[1].tolist() == [0, 0]
    assert torch.equal(found[:1], rule("_softmax.default")(M, residues([[1, 2]]), 1, False, symbols=False).tensor)


def test_of_one_number_softmax_is_one_and_its_logarithm_zero():
    x = residues(5)
    assert rule("_softmax.default")(M, x, 0, False, symbols=False).tensor.tolist() == 1
    assert rule("_log_softmax.default")(M, x, 0, False, symbols=False).tensor.tolist() == 0


@pytest.mark.parametrize("symbols", [False, True])
def test_the_degrees_of_softmax_and_its_logarithm(symbols):
    x = residues([[1, 2, 3]])
    total_of = D.exp().sum_of(3)
    softmax = D.exp() * total_of.inverse()
    found = rule("_softmax.default")(M, x, 1, False, symbols=symbols)
    assert found.degree == softmax
    logarithm = rule("_log_softmax.default")(M, x, 1, False, symbols=symbols)
    assert logarithm.degree == D + total_of.log()
    assert logarithm.exp().degree == total_of.inverse() * D.exp()
    assert softmax.orders == D.orders  # nothing is chosen


def test_the_degrees_of_the_backwards():
    grad, x = residues([[1, 2, 3]], Degree(over=1.0, under=4.0)), residues([[4, 5, 6]])
    y = rule("_softmax.default")(M, x, 1, False, symbols=False)
    found = rule("_softmax_backward_data.default")(M, grad, y, 1, None)
    assert found.degree == y.degree.softmax_backward(grad.degree, 3)
    logarithm = rule("_log_softmax.default")(M, x, 1, False, symbols=False)
    found = rule("_log_softmax_backward_data.default")(M, grad, logarithm, 1, None, symbols=False)
    assert found.degree == grad.degree + logarithm.exp().degree * grad.degree.sum_of(3)


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_the_backwards_along_any_dim(dim):
    grad, x = M.residue(drawn(2, 3, 4, seed=1), D), M.residue(drawn(2, 3, 4, seed=2), D)
    y = rule("_softmax.default")(M, x, dim, False, symbols=False)
    inner = modulo(modulo(grad.tensor * y.tensor).sum(dim, keepdim=True))
    found = rule("_softmax_backward_data.default")(M, grad, y, dim, None)
    assert torch.equal(found.tensor.long(), modulo(y.tensor * modulo(grad.tensor - inner)))
    logarithm = rule("_log_softmax.default")(M, x, dim, False, symbols=False)
    found = rule("_log_softmax_backward_data.default")(M, grad, logarithm, dim, None, symbols=False)
    whole = modulo(grad.tensor.sum(dim, keepdim=True))
    assert torch.equal(found.tensor.long(), modulo(grad.tensor - modulo(y.tensor * whole)))


def test_softmax_chooses_nothing():
    assert not {find_op("_softmax.default"), find_op("_log_softmax.default")} & SELECTIONS


@pytest.mark.parametrize("symbols", [False, True])
@pytest.mark.parametrize("dim", [0, 1, 2, -1])
def test_every_row_along_a_dim_adds_up_to_one(dim, symbols):
    x = M.residue(drawn(3, 4, 5, seed=4), D)
    found = rule("_softmax.default")(M, x, dim, False, symbols=symbols)
    assert bool((modulo(found.tensor.sum(dim)) == 1).all())
    assert torch.equal(found.tensor, rule("_softmax.default")(M, x, dim, False, symbols=not symbols).tensor)
    found, given = (t.long().movedim(dim, -1).flatten(0, 1).tolist() for t in (found.tensor, x.tensor))
    assert found == [by_definition(row) for row in given]


def test_the_lowest_residue_is_no_mask():
    rows = [[-FIELD.half, 3, LOWEST]]
    found = rule("_softmax.default")(M, residues(rows), 1, False, symbols=True)
    assert found.tensor.tolist() == [by_definition(rows[0])]
    assert found.tensor[0, 0] != 0


def test_the_lowest_difference_is_no_mask():
    """Of a number and the one half the field above it, where that is the row's maximum by the keyed order."""
    rank = M.oracles.look_up(M.oracles.permutation("order"), torch.arange(-FIELD.half, FIELD.half + 1.0)).tolist()
    low = next(x for x in range(-FIELD.half, 1) if rank[x + FIELD.half] < rank[x + 2 * FIELD.half])
    row = [low, low + FIELD.half]
    kept = rule("_log_softmax.default")(M, residues([row]), 1, False, symbols=False)
    found = rule("_log_softmax.default")(M, residues([[*row, INFINITE]]), 1, False, symbols=True)
    assert found.tensor[0, :2].tolist() == kept.tensor[0].tolist()
    assert kept.tensor[0, 0] != -FIELD.half


def test_the_logarithms_of_a_uniform_row_are_those_of_equal_numbers():
    equal = rule("_log_softmax.default")(M, residues([[7, 7, 7, 7]]), 1, False, symbols=False)
    found = rule("_log_softmax.default")(M, residues([[LOWEST] * 4]), 1, False, symbols=True)
    assert found.tensor.tolist() == [[-M.residue(torch.tensor(4.0).double()).log().tensor.item()] * 4]
    shares = rule("_softmax.default")(M, residues([[LOWEST] * 4]), 1, False, symbols=True).tensor
    assert torch.equal(shares, equal.exp().tensor)


@pytest.mark.parametrize("dim", [0, 1])
def test_a_large_tensor_is_computed_by_rows(dim, monkeypatch):
    x, grad = M.residue(drawn(9, 11, seed=5), D), M.residue(drawn(9, 11, seed=6), D)

    def everything():
        y = rule("_softmax.default")(M, x, dim, False, symbols=False)
        logarithm = rule("_log_softmax.default")(M, x, dim, False, symbols=False)
        return [
            y,
            logarithm,
            logarithm.exp(),
            rule("_softmax_backward_data.default")(M, grad, y, dim, None),
            rule("_log_softmax_backward_data.default")(M, grad, logarithm, dim, None, symbols=False),
        ]

    whole = everything()
    monkeypatch.setattr("shardproof.exact.algebra.blocks._ELEMENTS_A_THREAD", 7)
    for a, b in zip(whole, everything(), strict=True):
        assert torch.equal(a.tensor, b.tensor)
        assert a.degree == b.degree


def test_the_backward_of_one_number_is_zero():
    y = residues(1, CONSTANT)
    found = rule("_softmax_backward_data.default")(M, residues(5), y, 0, None)
    assert found.tensor.tolist() == 0
    assert found.degree == CONSTANT.softmax_backward(D, 1)
