"""`compare` against the same statistics computed one element at a time, over dtypes, layouts and special values."""

import math
import shutil
import struct

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shardproof.comparison import compare, pair

no_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ["c++", "g++", "clang++"])), reason="no C++ compiler on this machine"
)
FLOATS = {torch.float16: 1024, torch.bfloat16: 128, torch.float32: 2**23, torch.float64: 2**52}
SPECIAL = [
    0.0,
    -0.0,
    math.inf,
    -math.inf,
    math.nan,
    1.0,
    -1.0,
    1e-7,
    1e-40,
    5e-324,
    1e-5,
    3e38,
    -3e38,
    1.7e308,
    60000.0,
]


def pattern(value, dtype):
    """The number's place in the order of all numbers of its dtype."""
    if dtype is torch.bfloat16:
        bits = struct.unpack("<I", struct.pack("<f", value))[0] >> 16
        sign = 1 << 15
    else:
        code, word = {torch.float16: ("<e", "<H"), torch.float32: ("<f", "<I"), torch.float64: ("<d", "<Q")}[dtype]
        bits = struct.unpack(word, struct.pack(code, value))[0]
        sign = 1 << (8 * dtype.itemsize - 1)
    return -(bits - sign) if bits >= sign else bits


def naive(actual, expected, rtol, atol, equal_nan):
    """(exact, approximate, maxdiff, index, max_ulp, nan and inf counts) with a Python loop."""
    gaps = (actual.contiguous().flatten() - expected.contiguous().flatten()).abs().tolist()
    a, e = actual.flatten().tolist(), expected.flatten().tolist()
    worst, at, ulp, exact = 0.0, None, 0, True
    for i, (x, y, gap) in enumerate(zip(a, e, gaps, strict=True)):
        same = x == y or (equal_nan and math.isnan(x) and math.isnan(y))
        exact = exact and same
        if not same and not math.isnan(worst) and (math.isnan(gap) or gap > worst):
            worst, at = gap, i
        if not math.isnan(x) and not math.isnan(y):
            ulp = max(ulp, abs(pattern(x, actual.dtype) - pattern(y, actual.dtype)))
    index = None if at is None else tuple(int(i) for i in torch.unravel_index(torch.tensor(at), actual.shape))
    close = torch.isclose(actual, expected, rtol=rtol, atol=atol, equal_nan=equal_nan).all().item()
    counts = [sum(test(v) for v in side) for test in (math.isnan, math.isinf) for side in (a, e)]
    return exact, close, repr(float(worst)), index, min(ulp, FLOATS[actual.dtype]), counts


def summarize(found, actual, expected):
    index = found.worst and found.worst.index
    counts = [found.nan_actual, found.nan_expected, found.inf_actual, found.inf_expected]
    if index is not None:
        values = [found.worst.actual, found.worst.expected]
        assert repr(values) == repr([actual[index].item(), expected[index].item()])
    return found.exact, found.approximate, repr(found.maxdiff), index, found.max_ulp, counts


@st.composite
def pairs(draw):
    dtype = draw(st.sampled_from(list(FLOATS)))
    shape = draw(st.lists(st.integers(1, 6), max_size=4))
    count = math.prod(shape)
    special = draw(st.booleans())
    number = st.one_of(st.floats(-4, 4), st.sampled_from(SPECIAL)) if special else st.floats(-4, 4)
    values = draw(st.lists(number, min_size=count, max_size=count))
    expected = torch.tensor(values, dtype=torch.float64).to(dtype)
    actual = expected.clone()
    integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, count - 1))
        change = draw(st.sampled_from(["ulp", "sign", "other"]))
        if change == "ulp":
            actual.view(integer)[at] += draw(st.integers(-12, 12)) if actual[at].abs() > 1e-5 else 1
        elif change == "sign":
            actual[at] = -actual[at]
        else:
            actual[at] = torch.tensor(draw(number), dtype=torch.float64).to(dtype)
    return lay_out(draw, actual.view(shape)), lay_out(draw, expected.view(shape))


def lay_out(draw, tensor):
    """The same values with other strides."""
    layout = draw(st.sampled_from(["plain", "transposed", "sliced", "offset"]))
    if layout == "transposed" and tensor.dim() > 1:
        return tensor.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == "sliced" and tensor.dim() > 0:
        return torch.stack([tensor, tensor], dim=-1)[..., 0]
    if layout == "offset":
        return torch.cat([torch.zeros(1, dtype=tensor.dtype), tensor.flatten()])[1:].view(tensor.shape)
    return tensor


@pytest.mark.parametrize("kernel", ["eager", pytest.param("compiled", marks=no_compiler)])
@pytest.mark.parametrize("block", [8, 64, 1 << 20])
def test_every_statistic_is_the_naive_one(kernel, block):
    @settings(max_examples=100, deadline=None)
    @given(pairs(), st.sampled_from([(None, None), (0.0, 0.0), (0.1, 0.0), (0.0, 1e-3)]), st.booleans())
    def check(tensors, tolerances, equal_nan):
        found = compare(*tensors, rtol=tolerances[0], atol=tolerances[1])
        expected = naive(*tensors, found.rtol, found.atol, equal_nan)
        full = compare(*tensors, rtol=found.rtol, atol=found.atol, equal_nan=equal_nan, kernel=kernel)
        assert summarize(full, *tensors) == expected

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pair, "block_bytes", lambda *_: block)
        check()


def test_the_naive_computation_would_notice():
    """A control: the test above can fail, for each statistic alone."""
    actual, expected = torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.0])
    good = naive(actual, expected, 0.0, 0.0, False)
    bad = naive(torch.tensor([1.0, math.nan]), torch.tensor([3.0, math.inf]), 0.0, 0.0, False)
    assert all(a != b for a, b in zip(good, bad, strict=True))


@pytest.mark.parametrize("view", [torch.Tensor.conj, lambda t: t.conj().imag], ids=["conjugate", "negative"])
def test_lazy_conjugates_and_negatives_are_resolved(view):
    expected = torch.tensor([1 + 2j, 3 - 1j])
    assert compare(view(expected), view(expected).clone()).exact
    assert not compare(view(expected), view(expected + 1j)).exact


def test_expanded_tensors():
    found = compare(torch.ones(1).expand(1000), torch.ones(1000))
    assert (found.exact, found.count) == (True, 1000)
