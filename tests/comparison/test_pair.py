"""Each statistic of `compare`, with a planted difference that it must find, and without one."""

import math
import shutil

import pytest
import torch

from shardproof.comparison import compare, pair
from shardproof.errors import CannotRunError

no_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ["c++", "g++", "clang++"])), reason="no C++ compiler on this machine"
)
KERNELS = ["eager", pytest.param("compiled", marks=no_compiler)]
FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
FLOAT8 = [torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz, torch.float8_e8m0fnu]
INTEGERS = [torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.uint16, torch.uint32, torch.uint64]
COMPLEX = [torch.complex64, torch.complex128]


def ones(dtype, *shape):
    return torch.ones(*shape).to(dtype)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", [*FLOATS, *FLOAT8, *INTEGERS, *COMPLEX, torch.bool])
def test_equal_tensors_are_exact(dtype, kernel):
    found = compare(ones(dtype, 5, 7), ones(dtype, 5, 7), kernel=kernel)
    assert (found.exact, found.approximate, found.maxdiff, found.worst) == (True, True, 0, None)
    assert (found.outcome, found.count) == ("exact", 35)
    assert found.max_ulp == (None if dtype in [*INTEGERS, torch.bool] else 0)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", [*FLOATS, *FLOAT8, *INTEGERS, *COMPLEX])
def test_a_planted_difference_is_found_where_it_is(dtype, kernel):
    actual, expected = ones(dtype, 3, 4, 5), ones(dtype, 3, 4, 5)
    actual[2, 1, 3] = 2
    actual[0, 1, 0] = 2 if dtype is torch.float8_e8m0fnu else 1
    found = compare(actual, expected, kernel=kernel)
    assert (found.exact, found.approximate, found.maxdiff, found.outcome) == (False, False, 1, "diverged")
    assert found.worst.index == ((0, 1, 0) if dtype is torch.float8_e8m0fnu else (2, 1, 3))
    assert (found.worst.actual, found.worst.expected) == (2, 1)


def test_bool():
    found = compare(torch.tensor([True, False, True]), torch.tensor([True, True, True]))
    assert (found.exact, found.maxdiff, found.worst.index, found.worst.actual) == (False, 1, (1,), False)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_last_element_of_an_odd_size_counts(kernel):
    for size in [1, 2, 3, 31, 2049, 4097, (1 << 21) + 1]:
        for dtype in [torch.float32, torch.bfloat16]:
            actual, expected = ones(dtype, size), ones(dtype, size)
            actual[-1] = 3
            found = compare(actual, expected, kernel=kernel)
            assert (found.maxdiff, found.worst.index) == (2.0, (size - 1,))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_of_equally_large_differences_the_first_is_reported(dtype, kernel):
    expected = torch.zeros(3_000_000, dtype=dtype)
    actual = expected.clone()
    actual[[2_900_000, 1_000_001, 5_000_00]] = 1
    assert compare(actual, expected, kernel=kernel).worst.index == (500_000,)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_approximate_has_the_edges_of_torch_testing(dtype, kernel):
    expected = torch.full((1000,), 100.0, dtype=dtype)
    for ulps in range(-40, 41):
        integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
        actual = expected.clone()
        actual.view(integer)[777] += ulps
        found = compare(actual, expected, kernel=kernel)
        assert found.approximate == torch.isclose(actual, expected, rtol=found.rtol, atol=found.atol).all().item()
        assert (found.max_ulp, found.exact) == (abs(ulps), ulps == 0)


@pytest.mark.parametrize("kernel", KERNELS)
def test_tolerances_given(kernel):
    actual, expected = torch.tensor([1.0, 100.0]), torch.tensor([1.25, 100.0])
    assert not compare(actual, expected, kernel=kernel).approximate
    assert compare(actual, expected, atol=0.25, rtol=0, kernel=kernel).approximate
    assert not compare(actual, expected, atol=0.24, rtol=0, kernel=kernel).approximate
    # The tolerance is relative to expected: 0.25 of 1.25, but 0.25 of 1.0 the other way round.
    assert compare(actual, expected, rtol=0.2, atol=0, kernel=kernel).approximate
    assert not compare(expected, actual, rtol=0.2, atol=0, kernel=kernel).approximate
    assert compare(actual, expected, rtol=0.2, kernel=kernel).atol == 1e-5


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_nan_is_worse_than_any_number_and_counted_on_each_side(dtype, kernel):
    actual, expected = ones(dtype, 4, 5), ones(dtype, 4, 5)
    actual[0, 1] = 9
    actual[2, 3] = actual[3, 3] = math.nan
    expected[3, 4] = math.inf
    actual[3, 4] = math.inf
    found = compare(actual, expected, kernel=kernel)
    assert math.isnan(found.maxdiff)
    assert (found.nan_actual, found.nan_expected, found.inf_actual, found.inf_expected) == (2, 0, 1, 1)
    assert found.worst.index == (2, 3)
    assert found.worst.ulp is None
    assert (found.exact, found.approximate) == (False, False)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", [*FLOATS, *COMPLEX, torch.float8_e4m3fn])
def test_nan_in_both_is_a_difference_unless_asked_otherwise(dtype, kernel):
    tensor = torch.tensor([1.0, math.nan, 2.0]).to(dtype)
    plain = compare(tensor, tensor.clone(), kernel=kernel)
    assert (plain.exact, plain.approximate, plain.worst.index) == (False, False, (1,))
    asked = compare(tensor, tensor.clone(), equal_nan=True, kernel=kernel)
    assert (asked.exact, asked.approximate, asked.maxdiff, asked.nan_actual, asked.nan_expected) == (
        True,
        True,
        0,
        1,
        1,
    )


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_equal_infinities_are_equal_and_others_infinitely_far(dtype, kernel):
    expected = torch.tensor([math.inf, -math.inf, 1.0]).to(dtype)
    same = compare(expected.clone(), expected, kernel=kernel)
    assert (same.exact, same.maxdiff, same.inf_actual, same.inf_expected) == (True, 0, 2, 2)
    actual = torch.tensor([math.inf, math.inf, 1.0]).to(dtype)
    other = compare(actual, expected, kernel=kernel)
    assert (other.exact, other.approximate, other.maxdiff, other.worst.index) == (False, False, math.inf, (1,))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_zeros_of_both_signs_are_equal(dtype, kernel):
    found = compare(torch.zeros(9, dtype=dtype), -torch.zeros(9, dtype=dtype), kernel=kernel)
    assert (found.exact, found.maxdiff, found.max_ulp) == (True, 0, 0)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_ulp_is_counted_across_zero_and_stops_at_its_limit(dtype, kernel):
    step = torch.zeros(2, dtype=dtype)
    torch.nextafter(step, torch.ones(2, dtype=dtype), out=step)
    found = compare(step, -step, kernel=kernel)
    assert (found.max_ulp, found.worst.ulp) == (2, 2)
    far = compare(ones(dtype, 3), -ones(dtype, 3), kernel=kernel)
    assert far.max_ulp == far.ulp_limit
    assert far.worst.ulp > far.ulp_limit


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("side", [0, 1])
def test_a_nan_whose_bits_are_near_those_of_a_zero_is_seen(dtype, kernel, side, monkeypatch):
    monkeypatch.setattr(pair, "block_bytes", lambda *_: 64)
    tensors = [ones(dtype, 400), ones(dtype, 400)]
    tensors[0][0] = 100  # the tolerance and the largest difference are settled by the first block
    tensors[0][300] = 1.5  # this block differs by few ULP, for the float16s
    tensors[side][301], tensors[1 - side][301] = math.nan, -0.0
    found = compare(*tensors, kernel=kernel)
    assert found.worst.index == (301,)
    assert (found.nan_actual, found.nan_expected) == (1 - side, side)


def test_ulp_of_small_and_complex_formats():
    found = compare(torch.tensor([1.0, 3.0]).to(torch.float8_e4m3fn), torch.tensor([1.0, -3.0]).to(torch.float8_e4m3fn))
    assert found.max_ulp == found.worst.ulp == 2 * 0x44
    assert found.ulp_limit is None
    one = torch.tensor([1 + 1j])
    near = torch.complex(one.real, torch.nextafter(one.imag, torch.tensor(9.0)))
    assert compare(near, one).worst.ulp == 1


def test_integers_are_compared_to_the_last_digit():
    low, high = -(2**63), 2**63 - 1
    assert compare(torch.tensor([low]), torch.tensor([high])).maxdiff == 2**64 - 1
    assert compare(torch.tensor([high]), torch.tensor([high - 1])).maxdiff == 1
    assert not compare(torch.tensor([high]), torch.tensor([high - 1])).approximate
    assert compare(torch.tensor([7]), torch.tensor([9]), atol=2).approximate
    assert not compare(torch.tensor([7]), torch.tensor([9]), atol=1.9).approximate
    big = compare(torch.tensor([2**64 - 1], dtype=torch.uint64), torch.tensor([0], dtype=torch.uint64))
    assert (big.maxdiff, big.worst.actual, big.worst.ulp) == (2**64 - 1, 2**64 - 1, None)


def test_flushed_denormals_are_still_told_apart():
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor does not flush denormals")
    try:
        found = compare(torch.tensor([1, 2], dtype=torch.int32).view(torch.float32), torch.zeros(2))
    finally:
        torch.set_flush_denormal(False)
    assert not found.exact


def test_different_shapes_and_dtypes_are_a_finding_in_words():
    found = compare(torch.ones(2, 3), torch.ones(3, 2, dtype=torch.float64), name="w")
    assert found.outcome == "diverged"
    assert (found.exact, found.approximate, found.count) == (False, False, 0)
    assert found.mismatch == "shape [2, 3] where [3, 2] is expected, dtype float32 where float64 is expected"
    assert str(found) == f"w               | differs: {found.mismatch}"


def test_empty_tensors_say_that_nothing_was_compared():
    found = compare(torch.empty(0, 3), torch.empty(0, 3), name="e")
    assert (found.outcome, found.count) == ("nothing", 0)
    assert str(found) == "e               | empty, shape [0, 3]: nothing to compare"


def test_a_scalar_has_an_empty_index():
    found = compare(torch.tensor(1.5), torch.tensor(1.0))
    assert (found.maxdiff, found.worst.index, found.count) == (0.5, (), 1)


def test_parameters_are_compared_without_autograd():
    found = compare(torch.nn.Parameter(torch.ones(3)), torch.ones(3))
    assert found.exact


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (lambda: torch.ones(3, device="meta"), "meta"),
        (lambda: torch.eye(3).to_sparse(), "sparse"),
        (lambda: torch.ones(3).to(torch.float32).view(torch.uint8).view(torch.bits8), "bits8"),
        (lambda: [1, 2], "list"),
    ],
    ids=["meta", "sparse", "bits8", "list"],
)
def test_what_cannot_be_compared_is_refused_in_words(bad, words):
    for tensors in [(bad(), torch.ones(3)), (torch.ones(3), bad())]:
        with pytest.raises(CannotRunError, match=words):
            compare(*tensors)


@pytest.mark.parametrize("given", [{"rtol": -1}, {"atol": math.nan}, {"kernel": "fast"}])
def test_bad_options_are_refused(given):
    with pytest.raises(CannotRunError, match=next(iter(given))):
        compare(torch.ones(3), torch.ones(3), **given)
