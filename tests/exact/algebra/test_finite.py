"""Whether a tensor holds NaN or infinities."""

import math

import pytest
import torch

from shardproof.exact.algebra.finite import all_finite, any_nan

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.float8_e5m2, torch.complex64)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_the_elements_are(dtype):
    def of(*numbers):
        return torch.tensor(numbers, dtype=torch.float64).to(dtype)

    assert all_finite(of(1.0, -2.0))
    assert not any_nan(of(1.0, -2.0))
    for number in (math.nan, math.inf, -math.inf):
        found = of(1.0, number, -2.0)
        assert not all_finite(found)
        assert any_nan(found) is math.isnan(number)
    assert not all_finite(of(math.nan, math.inf))
    assert any_nan(of(math.inf, math.nan))


def test_nothing_is_finite():
    assert all_finite(torch.zeros(0, 3))
    assert not any_nan(torch.zeros(0, 3))


def test_a_tensor_that_requires_a_gradient_is_looked_at():
    assert all_finite(torch.ones(2, requires_grad=True))
    assert not any_nan(torch.ones(2, requires_grad=True))
