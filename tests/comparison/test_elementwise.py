"""Statistics of one block, each against Python's own numbers."""

import math

import pytest
import torch

from shardproof.comparison.elementwise import (
    CHUNK,
    Tolerance,
    are_close,
    count_ulp,
    examine,
    find_max_ulp,
    locate_worst,
)

EXACTLY = Tolerance(rtol=0.0, atol=0.0, equal_nan=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float8_e5m2])
def test_a_block_with_special_values(dtype):
    actual = torch.tensor([1.0, math.nan, math.inf, 2.0]).to(dtype)
    expected = torch.tensor([1.0, 1.0, math.inf, 4.0]).to(dtype)
    found = examine(actual, expected, EXACTLY)
    assert math.isnan(found.maxdiff)
    assert (found.close, found.nan_actual, found.nan_expected) == (False, 1, 0)
    assert (found.inf_actual, found.inf_expected) == (1, 1)
    without_nan = examine(actual[2:], expected[2:], EXACTLY)
    assert (without_nan.maxdiff, without_nan.close) == (2, False)
    assert examine(expected, expected, EXACTLY).close


def test_integers_are_exact_at_the_ends_of_their_range():
    low, high = torch.tensor([-(2**63)]), torch.tensor([2**63 - 1])
    assert examine(low, high, EXACTLY).maxdiff == 2**64 - 1
    assert examine(low, high, Tolerance(rtol=0.0, atol=2.0**64, equal_nan=False)).close
    assert not examine(low, high, Tolerance(rtol=0.0, atol=2.0**63, equal_nan=False)).close


def test_ulp_are_steps_of_nextafter():
    one = torch.tensor([1.0])
    next_one = torch.nextafter(torch.nextafter(one, 2 * one), 2 * one)
    assert find_max_ulp(one, next_one) == count_ulp(next_one, one) == 2
    assert find_max_ulp(torch.tensor([0.0]), torch.tensor([-0.0])) == 0
    assert count_ulp(torch.tensor([math.nan]), one) is None
    assert count_ulp(torch.tensor([1]), torch.tensor([2])) is None


def test_an_element_beyond_the_first_chunk_counts():
    expected = torch.zeros(2 * CHUNK + 3)
    actual = expected.clone()
    actual[2 * CHUNK + 1] = 1
    assert locate_worst(actual, expected, 1.0, equal_nan=False) == 2 * CHUNK + 1
    assert not are_close(actual, expected, EXACTLY)
    assert are_close(expected, expected, EXACTLY)
