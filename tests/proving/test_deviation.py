"""How far a run that rounds is from one that does not, by tensor."""

import math

import pytest
import torch

from shardproof.proving import deviation
from shardproof.proving.deviation import Deviation, largest, largest_difference, measure_deviation, worst


def measure(actual, expected, *, masks=False, dtype=torch.float32):
    return measure_deviation(
        torch.tensor(actual, dtype=dtype), torch.tensor(expected, dtype=torch.float64), masks=masks
    )


def test_the_largest_difference_and_magnitude_and_the_epsilon_of_the_dtype():
    assert measure([1.0, 2.5, -4.0], [1.0, 2.0, -4.0]) == Deviation(difference=0.5, scale=4.0, epsilon=2.0**-23)
    assert measure([1.5], [1.0], dtype=torch.bfloat16).epsilon == 2.0**-7


def test_tensors_of_two_shapes_have_none():
    assert measure([1.0, 1.0], [1.0]) is None
    assert measure([], []) == Deviation(difference=0.0, scale=0.0, epsilon=2.0**-23)


@pytest.mark.parametrize(("masked", "in_float32"), [(-math.inf, -math.inf), (-1e9, -1e9)])
def test_what_both_mask_has_no_part_in_it_where_there_may_be_masks(masked, in_float32):
    found = measure([in_float32, 1.5], [masked, 1.0], masks=True)
    assert (found.difference, found.scale) == (0.5, 1.0)
    assert not measure([0.0, 1.5], [masked, 1.0], masks=True).difference < 1e8
    assert not measure([in_float32, 1.5], [masked, 1.0]).scale < 1e8


@pytest.mark.parametrize("count", [1, 7, 8, 9, 40])
def test_blocks_are_put_together(monkeypatch, count):
    monkeypatch.setattr(deviation, "_BLOCK", 8)
    generator = torch.Generator().manual_seed(count)
    expected = torch.randn(count, generator=generator, dtype=torch.float64)
    actual = expected.float() + torch.randn(count, generator=generator)
    wanted = float((actual.double() - expected).abs().max())
    assert largest_difference(actual, expected) == wanted
    assert largest_difference(actual.view(1, -1).mT, expected.view(1, -1).mT) == wanted
    actual[-1] = math.nan
    assert math.isnan(largest_difference(actual, expected))


def test_the_largest_magnitude_of_nothing_is_zero():
    assert largest(torch.zeros(0)) == 0.0
    assert largest(torch.tensor([1.0, -3.0])) == 3.0
    assert math.isnan(largest(torch.tensor([1.0, math.nan])))
    assert math.isnan(worst([1.0, math.nan, 2.0]))
    assert worst([1.0, 3.0, 2.0]) == 3.0
