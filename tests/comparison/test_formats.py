"""Properties of dtypes: tolerances are torch.testing's, ULP of patterns are those of torch.nextafter."""

import pytest
import torch
from torch.testing._comparison import _DTYPE_PRECISIONS

from shardproof.comparison.formats import COMPARABLE, DEFAULT_TOLERANCES, FLOAT_FORMATS, ulp_limit


def test_default_tolerances_are_those_of_torch_testing():
    for dtype in COMPARABLE:
        assert DEFAULT_TOLERANCES.get(dtype, (0.0, 0.0)) == _DTYPE_PRECISIONS.get(dtype, (0.0, 0.0))


@pytest.mark.parametrize("dtype", FLOAT_FORMATS)
def test_the_layout_of_a_float_is_torchs(dtype):
    kind, info = FLOAT_FORMATS[dtype], torch.finfo(dtype)
    assert torch.tensor(torch.inf, dtype=dtype).view(kind.integer) == kind.infinity
    assert (2.0**-kind.mantissa, kind.tiny) == (info.eps, info.tiny)


@pytest.mark.parametrize("dtype", FLOAT_FORMATS)
def test_few_ulp_are_within_tolerance_and_a_few_more_are_not(dtype):
    kind, rtol = FLOAT_FORMATS[dtype], DEFAULT_TOLERANCES[dtype][0]
    few = kind.few_ulp(rtol, 1e-5)
    assert 0 < few < kind.ulp_limit
    for value in (1.0, 1.999, 2.0, 1024.0):
        expected = torch.tensor(value, dtype=dtype)
        for steps in (few, -few):
            actual = (expected.view(kind.integer) + steps).view(dtype)
            assert torch.isclose(actual, expected, rtol=rtol, atol=0)
    far = (torch.tensor(1.0, dtype=dtype).view(kind.integer) + 3 * few + 3).view(dtype)
    assert not torch.isclose(far, torch.tensor(1.0, dtype=dtype), rtol=rtol, atol=0)
    assert kind.few_ulp(rtol, 0.0) == 0  # subnormal numbers have no relative tolerance to spare


def test_the_limit_of_ulp_is_a_binade():
    assert ulp_limit(torch.float32) == ulp_limit(torch.complex64) == 2**23
    assert ulp_limit(torch.int32) is ulp_limit(torch.float8_e5m2) is None
