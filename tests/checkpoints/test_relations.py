"""Relations hold for every element, or they are not named."""

import math

import pytest
import torch

from shardproof.checkpoints.damage import Kind
from shardproof.checkpoints.full import full_of
from shardproof.checkpoints.pieces import TensorPiece
from shardproof.checkpoints.relations import count_differing, find_relation

EXPECTED = torch.randn(40, 30, generator=torch.Generator().manual_seed(0))


def find(actual, expected=EXPECTED):
    sides = (full_of(TensorPiece(tensor=side)) for side in (actual, expected))
    return find_relation(*sides, expected.dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("factor", [2.0, 0.5, -1.0, 4.0, 1 / 3, 0.7071067811865476, -0.125])
def test_a_factor_is_found_in_every_dtype(dtype, factor):
    expected = EXPECTED.to(dtype)
    found = find(expected * factor, expected)
    assert found.kind is (Kind.NEGATED if factor == -1 else Kind.SCALED)
    assert found.factor == pytest.approx(factor, rel=1e-3)


@pytest.mark.parametrize("added", [1.0, -1.0, 0.25])
def test_a_number_that_is_added_is_found(added):
    found = find(EXPECTED + added)
    assert (found.kind, found.factor) == (Kind.OFFSET, pytest.approx(added, rel=1e-3))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2])
def test_rounding_to_a_narrower_dtype_is_found(dtype):
    found = find(EXPECTED.to(dtype).float())
    assert (found.kind, found.other) == (Kind.ROUNDED, str(dtype).removeprefix("torch."))


@pytest.mark.parametrize(
    ("change", "kind", "count"),
    [
        (torch.zeros_like, Kind.ZERO, 1200),
        (lambda t: t.where(t < 2, math.nan), Kind.NOT_FINITE, int((EXPECTED >= 2).sum())),
        (lambda t: t.where(t < 2, math.inf), Kind.NOT_FINITE, int((EXPECTED >= 2).sum())),
        (lambda t: t.where(t < 2.9, 0.0), Kind.FEW, int((EXPECTED >= 2.9).sum())),
    ],
    ids=["zeros", "nan", "infinity", "few"],
)
def test_counts_are_told(change, kind, count):
    found = find(change(EXPECTED.clone()))
    assert (found.kind, found.count, found.total) == (kind, count, 1200)


def break_one(tensor, places):
    tensor = tensor.clone()
    tensor.view(-1)[places] += 0.5
    return tensor


@pytest.mark.parametrize(
    "change", [lambda t: t * 2, lambda t: -t, lambda t: t + 1, lambda t: t.bfloat16().float()], ids=range(4)
)
def test_a_relation_that_does_not_hold_for_every_element_is_not_named(change):
    assert find(change(EXPECTED)) is not None
    assert find(break_one(change(EXPECTED), slice(700, 800))) is None
    assert find(break_one(change(EXPECTED), slice(1199, 1200))) is None


def test_unrelated_values_are_counted():
    other = torch.randn(40, 30)
    assert find(other) is None
    sides = (full_of(TensorPiece(tensor=side)) for side in (other, EXPECTED))
    assert count_differing(*sides, torch.float32).count == 1200


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn])
def test_other_dtypes_are_counted_too(dtype):
    expected = (EXPECTED * 3).to(dtype)
    actual = expected.clone()
    actual.view(-1)[5:9] = (
        (EXPECTED.view(-1)[5:9] * 3 - 7).to(dtype) if dtype != torch.bool else ~expected.view(-1)[5:9]
    )
    assert (find(actual, expected).kind, find(actual, expected).count) == (Kind.FEW, 4)
