"""Padding: the values stay where they are, and zeros follow."""

import pytest
import torch

from shardproof.worlds.padding import pad, stack_padded


@pytest.mark.parametrize("dim", [0, 1])
def test_zeros_follow_the_values(dim):
    shard = torch.arange(1.0, 7).view(2, 3)
    padded = pad(shard, dim=dim, length=4)
    assert padded.shape[dim] == 4
    assert torch.equal(padded.narrow(dim, 0, shard.shape[dim]), shard)
    assert padded.narrow(dim, shard.shape[dim], 4 - shard.shape[dim]).count_nonzero() == 0


def test_a_shard_of_full_length_is_not_copied():
    shard = torch.ones(2, 3)
    assert pad(shard, dim=1, length=3) is shard


def test_parts_are_stacked_in_order():
    parts = [torch.full((2, length), float(length)) for length in (2, 1, 0)]
    stacked = stack_padded(parts, dim=1, length=2)
    assert stacked.tolist() == [[[2, 2], [2, 2]], [[1, 0], [1, 0]], [[0, 0], [0, 0]]]
    assert torch.equal(stack_padded(parts[:1] * 2, dim=1, length=2), torch.stack(parts[:1] * 2))
