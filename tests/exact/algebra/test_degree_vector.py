"""Degrees as lists of numbers: read back as they were, and joined by the largest of each number."""

from dataclasses import replace

import pytest

from shardproof.exact.algebra import degree_vector
from shardproof.exact.algebra.degree import CONSTANT, DEEPEST, UNKNOWN, VARIABLE, Degree
from shardproof.exact.algebra.no_bound import NoBound

DEEP = VARIABLE
for _ in range(DEEPEST):
    DEEP = DEEP.oracle()
DEGREES = [
    *(CONSTANT, VARIABLE, UNKNOWN, DEEP, VARIABLE.exp().sum_of(5).log(), VARIABLE.maximum_of(6)),
    *(VARIABLE.selected_from(3).inverse() * VARIABLE.oracle(), Degree(over=3.0, under=2.0)),
]


def joined(*degrees):
    numbers = [degree_vector.to_numbers(one) for one in degrees]
    return degree_vector.from_numbers([max(each) for each in zip(*numbers, strict=True)])


@pytest.mark.parametrize("degree", DEGREES)
def test_a_degree_comes_back_as_it_was(degree):
    numbers = degree_vector.to_numbers(degree)
    assert len(numbers) == degree_vector.LENGTH
    assert degree_vector.from_numbers(numbers) == degree


def test_the_known_values_are_the_very_same_objects():
    assert joined(CONSTANT) is CONSTANT
    assert joined(VARIABLE, VARIABLE) is VARIABLE


@pytest.mark.parametrize("one", DEGREES)
@pytest.mark.parametrize("other", DEGREES)
def test_the_largest_numbers_are_the_join(one, other):
    assert joined(one, other) == one | other


def test_a_reason_goes_along():
    lost = replace(VARIABLE, over=7.0).lost_to(NoBound.SOFTMAX)
    assert joined(VARIABLE, lost).lost is NoBound.SOFTMAX
    for degree in DEGREES:
        assert joined(degree).lost is None
        assert joined(degree.lost_to(NoBound.READ)).lost is NoBound.READ
        assert joined(degree, degree.lost_to(NoBound.READ)).lost is NoBound.READ
