"""Residues are equal to the last digit, numbers within 4 times the noise; factors that are worth testing."""

from fractions import Fraction

import pytest
import torch

from shardproof.proving.judging.closeness import Exact, WithinNoise, is_equal

PRIME = 101
EXACT = Exact(PRIME)


def residues(*values):
    return torch.tensor(values)


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_residues_are_equal_or_not():
    assert is_equal(EXACT, residues(1, -2), residues(1, -2))
    assert not is_equal(EXACT, residues(1, -2), residues(1, -3))
    assert not is_equal(EXACT, residues(1), residues(1, 1))


def test_results_of_arithmetic_get_their_representative():
    assert EXACT.canonical(residues(51, -51, 100, 202, 50, -50)).tolist() == [-50, 50, -1, 0, 50, -50]
    assert EXACT.scaled(residues(2, 40), Fraction(3, 2)).tolist() == [3, -41]
    assert EXACT.scaled(residues(1), Fraction(-1, 3)).tolist() == [-34]


@pytest.mark.parametrize(("off", "close"), [(0.04, True), (0.0401, False), (-0.04, True), (torch.inf, False)])
def test_numbers_are_close_up_to_four_times_the_noise(off, close):
    assert is_equal(WithinNoise(0.01), numbers(1.0, off), numbers(1.0, 0.0)) is close


@pytest.mark.parametrize("values", [(torch.nan, torch.nan), (torch.inf, torch.inf), (1.0, torch.nan)])
def test_what_is_not_finite_is_close_to_nothing(values):
    first, second = values
    assert not is_equal(WithinNoise(1e9), numbers(first), numbers(second))


def test_without_noise_the_same_is_close_and_nothing_else():
    exact = WithinNoise(0.0)
    assert is_equal(exact, numbers(3.0), numbers(3.0))
    assert not is_equal(exact, numbers(3.0), numbers(3.0 + 2**-50))
    assert exact.same_square(4.0, 4.0)
    assert not exact.same_square(4.0, 4.0 + 2**-40)


def test_numbers_of_any_dtype_are_compared_in_float64():
    assert WithinNoise(0.0).numbers(torch.ones(1, dtype=torch.bfloat16)).dtype is torch.float64
    assert is_equal(WithinNoise(1e-3), torch.tensor([1.0], dtype=torch.bfloat16), numbers(1.0))


@pytest.mark.parametrize("factor", [Fraction(3), Fraction(1, 2), Fraction(-2, 3), Fraction(0)])
def test_exact_candidates_have_the_ratio_of_the_first_expected_value_that_is_not_zero(factor):
    expected = residues(0, 7)
    actual = EXACT.scaled(expected, factor)
    assert factor in list(EXACT.candidate_factors(actual, expected))
    assert all(torch.equal(EXACT.scaled(expected, one), actual) for one in EXACT.candidate_factors(actual, expected))


@pytest.mark.parametrize(
    ("factor", "tried"),
    [
        *((Fraction(sign * 64), True) for sign in (1, -1)),
        *((Fraction(sign * 65), False) for sign in (1, -1)),
        *((Fraction(64, 63), True), (Fraction(63, 64), True), (Fraction(1, 64), True)),
        *((Fraction(1, 65), False), (Fraction(65, 64), False)),
    ],
)
def test_numerators_and_denominators_go_up_to_64(factor, tried):
    closeness, expected = Exact(2_097_143), residues(0, 7, 11)
    assert (factor in closeness.candidate_factors(closeness.scaled(expected, factor), expected)) is tried


def test_the_first_expected_value_that_is_not_zero_decides_which_factors_are_tried():
    factors = set(Exact(2_097_143).candidate_factors(residues(1, 14, 33), residues(0, 7, 11)))
    assert factors == {Fraction(2)}


def test_there_is_no_factor_of_zeros():
    assert list(EXACT.candidate_factors(residues(1, 2), residues(0, 0))) == []
    assert list(WithinNoise(1.0).candidate_factors(numbers(1.0), numbers(0.0))) == []


def test_within_noise_a_few_factors_are_told_apart():
    factors = set(WithinNoise(1.0).candidate_factors(numbers(1.0), numbers(1.0)))
    assert {Fraction(0), Fraction(2), Fraction(16), Fraction(1, 2), Fraction(1, 16)} < factors
    assert factors.isdisjoint({Fraction(1), Fraction(17), Fraction(1, 17), Fraction(3, 2)})


def test_squares_are_those_of_one_norm_modulo_the_prime_or_within_the_noise_of_the_norm():
    assert EXACT.squares(residues(11, -3)).tolist() == [20, 9]
    assert EXACT.same_square(3, 3 - 5 * PRIME)
    assert not EXACT.same_square(3, -3)
    close = WithinNoise(0.01)
    assert close.squares(torch.tensor([3.0], dtype=torch.bfloat16)).dtype is torch.float64
    assert close.same_square(9.0, 3.03**2)
    assert not close.same_square(9.0, 3.05**2)
    assert close.same_square(0.0, -1e-20)
    assert close.same_square(-1e-20, 0.0)
    assert not close.same_square(torch.nan, torch.nan)
    assert not close.same_square(torch.inf, torch.inf)


def test_within_noise_relations_are_approximate_and_modulo_a_prime_exact():
    assert WithinNoise(0.0).approximate is True
    assert EXACT.approximate is False
    assert WithinNoise(0.0).scaled(numbers(3.0, 5.0), Fraction(1, 2)).tolist() == [1.5, 2.5]
