"""Sizes that divide among ranks as the full ones do, and stay apart where those do."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardproof.frameworks.transformers.dividing import (
    Dimension,
    Field,
    describe_shards,
    find_other_split,
    list_splits,
    shrink,
)


def field(name, full, modulus=1, least=4):
    return Field(name=name, full=full, modulus=modulus, least=least)


def dimension(full, splits=((8,),), **factors):
    return Dimension(name="dim", full=full, factors=factors, splits=splits)


def test_splits_are_over_each_set_of_axes_and_over_one_after_the_other():
    assert list_splits({"dp": 16, "tp": 8}) == ((8,), (8, 16), (16,), (16, 8), (128,))
    assert list_splits({"tp": 8, "one": 1}) == ((8,),)


@pytest.mark.parametrize(
    ("full", "reduced", "ranks", "alike"),
    [
        (128256, 16, 8, True),
        (128256, 8, 8, False),  # one row a rank where there were several
        (128257, 16, 8, False),  # divides, where the full size does not
        (128257, 17, 8, False),  # shards of 3, of which two are empty
        (128257, 65, 8, True),  # seven shards of 9 and one of 2
        (8, 8, 16, True),
        (8, 12, 16, False),  # as many ranks are not empty-handed
    ],
)
def test_a_smaller_size_divides_alike_or_not(full, reduced, ranks, alike):
    assert (find_other_split(full, reduced, ((ranks,),)) is None) is alike


def test_a_shard_of_a_shard_divides_alike_too():
    assert find_other_split(1024, 32, ((8,),)) is None
    assert find_other_split(1024, 32, ((8, 16),)) == (8, 16)  # 4 rows of a rank for 16 ranks
    assert find_other_split(1024, 256, ((8, 16),)) is None


@given(st.integers(1, 5000), st.integers(2, 40), st.integers(2, 6))
def test_the_shards_are_those_of_torch_chunk(size, ranks, inner):
    import torch

    chunks = [len(one) for one in torch.arange(size).chunk(ranks)]
    chunks += [0] * (ranks - len(chunks))
    counted = describe_shards(size, (ranks, inner))
    assert sum(count for count, *_ in counted) == ranks
    assert sum(count for count, rows, *_ in counted if rows) == sum(map(bool, chunks))
    assert sum(count for count, _, full, _ in counted if full) == chunks.count(max(chunks))


def test_each_field_becomes_the_smallest_with_which_its_dimensions_divide_alike():
    fields = [field("hidden", 4096), field("vocab", 128257)]
    dimensions = [dimension(4096, hidden=1), dimension(128257, vocab=1)]
    assert shrink(fields, dimensions) == {"hidden": 16, "vocab": 65}


def test_sizes_that_differ_stay_different_from_each_other_and_from_what_is_kept():
    heads = Dimension(name="heads", full=16, factors={})
    assert shrink([field("hidden", 4096)], [heads, dimension(4096, hidden=1)]) == {"hidden": 24}
    two = [dimension(4096, hidden=1), dimension(8192, inner=1)]
    assert shrink([field("hidden", 4096), field("inner", 8192)], two) == {"hidden": 16, "inner": 24}
    same = [dimension(4096, hidden=1), dimension(4096, inner=1)]
    assert shrink([field("hidden", 4096), field("inner", 4096)], same) == {"hidden": 16, "inner": 16}


def test_a_heads_size_is_as_large_as_the_rows_of_all_key_value_heads_need():
    rows = dimension(1024, splits=((8,), (8, 16)), head=8)
    assert shrink([field("head", 128, modulus=2)], [rows]) == {"head": 32}


def test_a_sum_is_looked_at_when_its_last_part_is_chosen():
    parts = [dimension(512, rank=1), dimension(576, rank=1, rotated=1)]
    assert shrink([field("rotated", 64, modulus=8), field("rank", 512)], parts) == {"rotated": 8, "rank": 16}


def test_a_field_without_a_smaller_size_stays():
    rows = dimension(24, splits=((8,),), head=1)
    assert shrink([field("head", 24, least=20)], [rows]) == {"head": 24}
