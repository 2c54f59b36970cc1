"""Token ids that meet both edges of each rank's part of the vocabulary."""

import pytest

from shardproof.frameworks.transformers import probing_ids
from shardproof.worlds.communicator import shard_range


@pytest.mark.parametrize("vocabulary", [64, 63])
@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_every_edge_is_met(vocabulary, ranks):
    ids = set(probing_ids(vocabulary, 0).flatten().tolist())
    for rank in range(ranks):
        start, stop = shard_range(vocabulary, rank, ranks)
        assert {start, stop - 1} <= ids


def test_ids_lie_in_a_small_vocabulary_and_differ_by_seed():
    for vocabulary in (2, 7, 32_000):
        ids = probing_ids(vocabulary, 0)
        assert 0 <= int(ids.min()) <= int(ids.max()) < vocabulary
    assert not probing_ids(64, 0).equal(probing_ids(64, 1))
