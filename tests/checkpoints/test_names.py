"""A tensor under another's name is found by all its values; constants, which many are, are not."""

import pytest
import torch

from shardproof.checkpoints.damage import Kind
from shardproof.checkpoints.full import full_of
from shardproof.checkpoints.names import find_other_names
from shardproof.checkpoints.pieces import TensorPiece

A, B, C = (torch.randn(8, 6, generator=torch.Generator().manual_seed(seed)) for seed in range(3))
ONES = torch.ones(8, 6)


def find(failed, actual, expected, passed=()):
    sides = (
        {name: full_of(TensorPiece(tensor=tensor)) for name, tensor in side.items()} for side in (actual, expected)
    )
    found = find_other_names(failed, *sides, passed)
    return {name: (damage.kind, damage.other) for name, damage in found.items()}


def test_each_way_is_named():
    assert find("ab", {"a": B, "b": A}, {"a": A, "b": B}) == {"a": (Kind.EXCHANGED, "b"), "b": (Kind.EXCHANGED, "a")}
    assert find("a", {"a": B, "b": B}, {"a": A, "b": B}, "b") == {"a": (Kind.COPIED, "b")}
    assert find("a", {"a": B, "b": C}, {"a": A, "b": B}) == {"a": (Kind.MISNAMED, "b")}
    assert find("ax", {"x": A}, {"a": A}) == {"a": (Kind.RENAMED, "x")}
    assert find("a", {"b": A}, {"a": A, "b": A}, "b") == {"a": (Kind.TIED, "b")}
    assert find("a", {"a": B, "b": B}, {"b": B}, "b") == {"a": (Kind.TIED, "b")}
    assert find("a", {"a": C, "b": A}, {"a": A, "b": A}, "b") == {"a": (Kind.UNTIED, "b")}


@pytest.mark.parametrize("shape", [(8, 6), (6, 8), (48,)])
def test_what_differs_in_the_last_element_is_not_the_same(shape):
    near = B.clone()
    near[-1, -1] += 1
    assert find("a", {"a": near.view(shape), "b": B.view(shape)}, {"a": A.view(shape), "b": B.view(shape)}, "b") == {}


def test_constants_and_single_elements_name_nothing():
    assert find("a", {"a": ONES, "b": ONES}, {"a": A, "b": ONES}, "b") == {}
    one = torch.tensor([3.0])
    assert find("a", {"a": one, "b": one}, {"a": one + 1, "b": one}, "b") == {}
    assert find("a", {"a": one[0], "b": one[0]}, {"a": one[0] + 1, "b": one[0]}, "b") == {}


def test_another_dtype_or_shape_is_another_tensor():
    assert find("a", {"a": B.double(), "b": B}, {"a": A.double(), "b": B}, "b") == {}
    assert find("a", {"a": B.view(6, 8), "b": B}, {"a": A.view(6, 8), "b": B}, "b") == {}
