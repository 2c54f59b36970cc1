"""Slices of layers: what each split needs and produces, and shards that make the full tensors again."""

from __future__ import annotations

import pytest
import torch

from shardproof.byhand.model import initialise_layers
from shardproof.byhand.sharding import gather_output, gather_weight, own_slice, plan_splits, shard_layers

WIDTHS = (5, 7, 6, 3)


def test_what_a_layer_needs_follows_from_its_reader():
    splits = plan_splits(WIDTHS, ("column", "row", "row"))
    assert [split.needed for split in splits] == ["shard", "shard", "full"]
    assert [split.z_is_sharded for split in splits] == [True, True, False]
    assert [(split.in_features, split.out_features) for split in splits] == [(5, 7), (7, 6), (6, 3)]


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("split", ["column", "row"])
def test_shards_make_the_layer_again(split, size):
    layers, splits = initialise_layers(WIDTHS, seed=1), plan_splits(WIDTHS, (split,) * 3)
    ranks = [shard_layers(layers, splits, rank=rank, size=size) for rank in range(size)]
    for layer, layer_split, *shards in zip(layers, splits, *ranks, strict=True):
        assert torch.equal(gather_weight([shard.W for shard in shards], layer_split), layer.W)
        assert torch.equal(gather_output([shard.b for shard in shards], layer_split), layer.b)
        if size > 1:
            assert not torch.equal(gather_weight([shard.W for shard in reversed(shards)], layer_split), layer.W)


def test_slices_are_as_even_as_can_be():
    assert [own_slice(7, rank, 3) for rank in range(3)] == [slice(0, 3), slice(3, 5), slice(5, 7)]
