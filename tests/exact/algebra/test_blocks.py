"""Blocks: every layout is covered once, and none is larger than it should be."""

import math

import pytest
import torch

from shardproof.exact.algebra.blocks import block_size, blocks


def layouts(numel):
    """Large tensors laid out in every way, and what to broadcast against them."""
    side = math.isqrt(numel) + 1
    x = torch.arange(side * side, dtype=torch.float64).view(side, side)
    yield "contiguous", x, x[0]
    yield "transposed", x.T, x[:, :1]
    yield "every other column", x[:, ::2], x[:1, ::2]
    yield "batch of transposed", x[: side // 2 * 2].view(2, -1, side).transpose(1, 2), x[0, :1]
    yield "one long row", x.view(1, -1), x[0, 0]


@pytest.mark.parametrize("name", [name for name, _, _ in layouts(1)])
def test_blocks_cover_every_layout_once_and_give_the_same_as_the_whole(name):
    large, other = next((x, y) for n, x, y in layouts(3 * block_size()) if n == name)
    target = large.clone(memory_format=torch.preserve_format)
    for part, whole, more in blocks(target, large, other):
        assert part.numel() <= block_size()
        assert torch.equal(part, whole)  # not yet visited
        part.mul_(2).add_(more + 1)
    assert torch.equal(target, 2 * large + other + 1)
