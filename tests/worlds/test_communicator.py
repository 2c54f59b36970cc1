"""Shards of a length: they cover it, in order, and differ by at most one."""

from hypothesis import given
from hypothesis import strategies as st

from shardproof.worlds.communicator import shard_range, shard_sizes


@given(total=st.integers(0, 200), size=st.integers(1, 17))
def test_ranges_are_the_sizes_laid_end_to_end(total, size):
    sizes = shard_sizes(total, size)
    assert sum(sizes) == total
    assert max(sizes) - min(sizes) <= 1
    assert list(sizes) == sorted(sizes, reverse=True)
    start = 0
    for rank, length in enumerate(sizes):
        assert shard_range(total, rank, size) == (start, start + length)
        start += length
