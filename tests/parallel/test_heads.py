"""How heads are divided among ranks, and which ranks replicate a KV head."""

import pytest
from tests.parallel.ranks import run

from shardproof.errors import CannotRunError
from shardproof.parallel.heads import check_heads, head_sections, kv_replica_axis


@pytest.mark.parametrize(("heads", "size", "shared"), [(4, 2, False), (4, 4, False), (2, 4, True), (6, 3, True)])
def test_heads_that_fit_pass(heads, size, shared):
    check_heads(heads, size, shared=shared, name="x")


@pytest.mark.parametrize(
    ("heads", "size", "shared", "said"),
    [
        (4, 3, False, "x: 4 heads on 3 ranks; needed are ranks that divide the heads$"),
        (2, 4, False, "x: 2 heads on 4 ranks; needed are ranks that divide the heads$"),
        (3, 4, True, "x: 3 heads on 4 ranks; .*, or that the heads divide"),
    ],
)
def test_heads_that_do_not_fit_are_refused(heads, size, shared, said):
    with pytest.raises(CannotRunError, match=said):
        check_heads(heads, size, shared=shared, name="x")


def test_sections_of_a_fused_projection_keep_heads_and_share_keys_and_values():
    queries, keys, values = head_sections((12, 6, 6), 3, 4, name="x")
    assert (queries.length, queries.unit, queries.shared) == (12, 3, False)
    assert keys == values
    assert (keys.length, keys.unit, keys.shared) == (6, 3, True)
    with pytest.raises(CannotRunError, match="a width of 7 is no multiple of a head's 3"):
        head_sections((7,), 3, 1, name="x")


@pytest.mark.parametrize(("heads", "replicas"), [(1, 4), (2, 2), (4, None), (8, None)])
def test_neighbouring_ranks_replicate_a_kv_head(heads, replicas):
    def on_rank(axis):
        found = kv_replica_axis(axis, heads)
        return found and (found.rank, found.size)

    found = run(4, on_rank)
    assert found == [replicas and (rank % replicas, replicas) for rank in range(4)]
