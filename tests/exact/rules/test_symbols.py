"""The two symbols of masks in sums and products, element by element."""

import pytest
import torch
from tests.exact.algebra.residues import FIELD, M

from shardproof.exact import NotANumberError, SymbolError
from shardproof.exact.algebra.degree import VARIABLE
from shardproof.exact.algebra.lift import LOWEST, NEGATIVE_INFINITY
from shardproof.exact.rules.symbols import (
    add_symbols,
    multiply_symbols,
    split_symbols,
    subtract_from_symbols,
    with_limit,
)

HALF = FIELD.half
FLOAT32_LOWEST = torch.finfo(torch.float32).min


def residues(*numbers, degree=VARIABLE):
    return M.residue(torch.tensor(numbers, dtype=torch.float64), degree)


# Apart ----------------------------------------------------------------------------------------------------------------


def test_symbols_and_residues_are_told_apart():
    numbers, symbols = split_symbols(M, residues(HALF, -HALF, 0, LOWEST, NEGATIVE_INFINITY))
    assert numbers.tensor.tolist() == [HALF, -HALF, 0, 0, 0]
    assert symbols.tolist() == [0, 0, 0, LOWEST, NEGATIVE_INFINITY]
    assert numbers.degree == VARIABLE


@pytest.mark.parametrize(
    ("number", "residue", "symbol"),
    [
        (3, 3, 0),
        (0.25, FIELD.representative(pow(4, -1, FIELD.prime)), 0),
        (NEGATIVE_INFINITY, 0, NEGATIVE_INFINITY),
        (LOWEST, 0, LOWEST),
        (FLOAT32_LOWEST, 0, LOWEST),
    ],
)
def test_a_python_number_is_a_residue_or_a_symbol(number, residue, symbol):
    numbers, symbols = split_symbols(M, number)
    assert (numbers.tensor.tolist(), symbols) == (residue, symbol)


# Sums -----------------------------------------------------------------------------------------------------------------

SUMS = {
    "two residues": (3, 4, 7),
    "two residues, reduced": (HALF, 1, -HALF),
    "a residue and the lowest": (3, LOWEST, LOWEST),
    "the lowest and a residue": (LOWEST, 3, LOWEST),
    "a residue and minus infinity": (3, NEGATIVE_INFINITY, NEGATIVE_INFINITY),
    "minus infinity and a residue": (NEGATIVE_INFINITY, -3, NEGATIVE_INFINITY),
    "two lowest": (LOWEST, LOWEST, NEGATIVE_INFINITY),
    "both symbols": (LOWEST, NEGATIVE_INFINITY, NEGATIVE_INFINITY),
    "zero and the lowest": (0, LOWEST, LOWEST),
}


@pytest.mark.parametrize("name", SUMS)
def test_a_sum(name):
    a, b, total = SUMS[name]
    found = add_symbols(M, residues(a, 5), residues(b, 6), 1)
    assert found.tensor.tolist() == [total, 11]
    assert found.degree == VARIABLE + VARIABLE
    assert add_symbols(M, residues(a, 5), b, 1).tensor.tolist()[0] == total  # a Python number


@pytest.mark.parametrize("alpha", [2, 0, -1, 0.5])
def test_a_symbol_is_added_as_it_is_or_not_at_all(alpha):
    with pytest.raises(SymbolError, match=f"added with alpha = {alpha}"):
        add_symbols(M, residues(1, 2), residues(LOWEST, 3), alpha)


def test_residues_are_taken_from_symbols_and_symbols_from_nothing():
    found = subtract_from_symbols(M, residues(LOWEST, NEGATIVE_INFINITY, 9), residues(1, 2, 3), 1)
    assert found.tensor.tolist() == [LOWEST, NEGATIVE_INFINITY, 6]
    assert subtract_from_symbols(M, residues(LOWEST, 9), 4, 1).tensor.tolist() == [LOWEST, 5]
    for symbol in (LOWEST, NEGATIVE_INFINITY):
        for y in (residues(1, symbol), symbol):
            with pytest.raises(SymbolError, match="is taken away"):
                subtract_from_symbols(M, residues(LOWEST, 9), y, 1)
    found = subtract_from_symbols(M, residues(LOWEST, LOWEST, 9), residues(LOWEST, 1, 4), 1)
    assert found.tensor.tolist() == [0, LOWEST, 5]  # the maximum of a row that is masked whole
    found = subtract_from_symbols(M, residues(NEGATIVE_INFINITY, LOWEST, 9), residues(LOWEST, LOWEST, 4), 1)
    assert found.tensor.tolist() == [NEGATIVE_INFINITY, 0, 5]  # a running maximum that starts at -inf
    assert subtract_from_symbols(M, residues(LOWEST, NEGATIVE_INFINITY), LOWEST, 1).tensor.tolist() == [
        0,
        NEGATIVE_INFINITY,
    ]
    with pytest.raises(SymbolError, match="is taken away"):
        subtract_from_symbols(M, residues(LOWEST, 9), residues(NEGATIVE_INFINITY, 1), 1)
    with pytest.raises(SymbolError, match="is taken away"):
        subtract_from_symbols(M, residues(NEGATIVE_INFINITY, 9), residues(NEGATIVE_INFINITY, 1), 1)
    with pytest.raises(SymbolError, match="alpha = 2"):
        subtract_from_symbols(M, residues(LOWEST, 9), residues(1, 2), 2)


# Products -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("symbol", [LOWEST, NEGATIVE_INFINITY])
def test_one_times_a_symbol_is_the_symbol(symbol):
    for x, y in ((residues(symbol, 5), residues(1, 6)), (residues(1, 5), residues(symbol, 6))):
        found = multiply_symbols(M, x, y)
        assert found.tensor.tolist() == [symbol, 30]
        assert found.degree == VARIABLE * VARIABLE
    assert multiply_symbols(M, residues(symbol, 5), 1).tensor.tolist() == [symbol, 5]
    assert multiply_symbols(M, residues(1, 1), symbol).tensor.tolist() == [symbol, symbol]


def test_zero_times_the_lowest_number_is_zero():
    assert multiply_symbols(M, residues(LOWEST, 5), residues(0, 6)).tensor.tolist() == [0, 30]
    assert multiply_symbols(M, residues(0, 1, 1), LOWEST).tensor.tolist() == [0, LOWEST, LOWEST]
    assert multiply_symbols(M, residues(LOWEST, 5), 0).tensor.tolist() == [0, 0]


def test_zero_times_minus_infinity_is_refused():
    for x, y in ((NEGATIVE_INFINITY, 0), (0, NEGATIVE_INFINITY)):
        with pytest.raises(NotANumberError, match=r"0 \* -inf"):
            multiply_symbols(M, residues(x, 5), residues(y, 6))


@pytest.mark.parametrize("factor", [2, -1, HALF, LOWEST, NEGATIVE_INFINITY])
@pytest.mark.parametrize("symbol", [LOWEST, NEGATIVE_INFINITY])
def test_any_other_product_with_a_symbol_is_refused(factor, symbol):
    for x, y in ((symbol, factor), (factor, symbol)):
        with pytest.raises(SymbolError, match="multiplied by something other than 0 or 1"):
            multiply_symbols(M, residues(x, 5), residues(y, 6))


def test_a_product_broadcasts():
    found = multiply_symbols(M, M.residue(residues(LOWEST, 2).tensor.view(2, 1)), residues(1, 0, 1))
    assert found.tensor.tolist() == [[LOWEST, 0, LOWEST], [2, 0, 2]]


# Limits ---------------------------------------------------------------------------------------------------------------


def test_a_function_has_its_limit_where_a_symbol_is():
    found = with_limit(M, residues(LOWEST, 2, NEGATIVE_INFINITY), lambda x: x * 3, limit=-1.0)
    assert found.tensor.tolist() == [-1, 6, -1]
    assert found.degree == VARIABLE
