"""What moved along a dim, from numbers alone; what almost fits is not named so."""

import pytest
import torch

from shardproof.checkpoints.damage import Kind
from shardproof.checkpoints.fingerprints import Fingerprints
from shardproof.checkpoints.order import find_move, find_packing, find_view, match


def of(*numbers):
    values = torch.tensor(numbers)
    return Fingerprints(values=values, zero=values == 0)


def move(*numbers, n=None):
    """What moved, where expected has 1, 2, 3, ... and 0 stands for zeros."""
    return find_move(of(*numbers), of(*range(1, 1 + (n or len(numbers)))), 0)


@pytest.mark.parametrize(
    ("numbers", "kind", "fields"),
    [
        ((3, 4, 1, 2), Kind.BLOCKS_SWAPPED, {"size": 2, "order": (1, 0)}),
        ((7, 8, 3, 4, 5, 6, 1, 2), Kind.BLOCKS_SWAPPED, {"size": 2, "order": (3, 1, 2, 0)}),
        ((1, 2, 5, 6, 3, 4, 7, 8), Kind.REPACKED, {"size": 2, "sections": (2, 2), "ranks": 2}),
        ((1, 2, 5, 7, 3, 4, 6, 8), Kind.REPACKED, {"size": 1, "sections": (4, 2, 2), "ranks": 2}),
        ((1, 2, 5, 6, 3, 7, 4, 8), Kind.REPACKED, {"size": 1, "sections": (4, 2, 2), "ranks": 2}),
        ((4, 3, 2, 1), Kind.REVERSED, {}),
        ((2, 3, 4, 5, 1), Kind.SHIFTED, {"source": 1}),
        ((1, 4, 2, 5, 3, 6), Kind.INTERLEAVED, {"view": (1, 2, 3)}),
        ((1, 3, 2, 4, 5, 7, 6, 8), Kind.INTERLEAVED, {"view": (2, 2, 2)}),
        ((2, 1, 3, 5, 4, 6, 7), Kind.PERMUTED, {"count": 4, "total": 7}),
        ((1, 2, 0, 0, 5, 6), Kind.SHARD_ZERO, {"first": 2, "last": 4}),
        ((1, 2, 1, 2, 5, 6), Kind.SHARD_DOUBLED, {"first": 2, "last": 4, "source": 0}),
        ((1, 2, 9, 10, 5, 6), Kind.SHARD_STALE, {"first": 2, "last": 4}),
    ],
)
def test_each_move_is_named(numbers, kind, fields):
    found = move(*numbers)
    assert found.kind is kind
    assert {key: getattr(found, key) for key in fields} == fields


@pytest.mark.parametrize(
    "numbers",
    [
        (1, 2, 3, 4),
        (9, 10, 11, 12),
        (0, 0, 0, 0),
        (9, 2, 10, 4),
        (0, 2, 3, 9),
        (2, 1, 9, 4, 5),
        (1, 1, 0, 4),
    ],
)
def test_what_nothing_explains_is_not_named(numbers):
    assert move(*numbers) is None


def test_zeros_that_expected_has_too_are_none():
    assert find_move(of(0, 2, 0), of(0, 2, 3), 0).first == 2
    assert find_move(of(1, 0, 0), of(1, 0, 3), 0).first == 2


def test_equal_indexes_are_matched_where_they_follow_one_another():
    expected = of(5, 1, 5, 2, 5, 3)
    assert match(of(5, 2, 5, 1, 5, 3), expected).tolist()[:4] == [0, 3, 2, 1]
    assert match(of(5, 3, 5, 1, 5, 2), expected).tolist() == [0, 5, 2, 1, 4, 3]
    assert find_move(of(5, 3, 5, 1, 5, 2), expected, 0).kind is Kind.PERMUTED


def test_packings_and_views_are_found_as_they_are():
    assert find_packing([0, 2, 1, 3]) == ((2, 2), 1, 2)
    assert find_packing([0, 1, 4, 6, 2, 3, 5, 7]) == ((4, 2, 2), 1, 2)
    assert find_packing([0, 2, 1, 3, 4, 6, 5, 7]) == ((4, 4), 2, 4)
    assert find_packing([0, 2, 1, 3, 4, 5, 6, 7]) is None
    assert find_packing([0, 4, 6, 1, 4, 6, 2, 5, 7, 3, 5, 7][:4]) is None
    assert find_packing([1, 0]) is None
    assert find_packing([0, 3, 1, 2]) is None
    for view in ((1, 2, 3), (3, 2, 4), (2, 3, 2)):
        places = torch.arange(view[0] * view[1] * view[2]).view(view).transpose(1, 2).flatten()
        assert find_view(places) == view
        assert find_view(places.roll(1)) is None
