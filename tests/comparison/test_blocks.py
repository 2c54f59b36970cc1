"""Blocks are the elements in row-major order, each once, as views where they can be."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shardproof.comparison.blocks import open_blocks


@settings(deadline=None)
@given(st.lists(st.integers(1, 5), max_size=4), st.integers(1, 40), st.booleans())
def test_blocks_are_the_elements_in_row_major_order_each_once(shape, size, contiguous):
    tensor = torch.arange(math.prod(shape), dtype=torch.float32).view(shape)
    other = tensor if contiguous else torch.stack([tensor, tensor], dim=-1)[..., 0]
    reader = open_blocks(tensor, other, size)
    seen = []
    for block in reader.blocks():
        left, right = reader.read(block)
        assert torch.equal(left, right)
        assert block.start == len(seen)
        assert left.numel() <= size
        seen += left.tolist()
    assert seen == list(range(tensor.numel()))


def test_contiguous_tensors_are_viewed_and_others_copied():
    tensor = torch.arange(12.0).view(3, 4)
    block = next(iter(open_blocks(tensor, tensor, 5).blocks()))
    assert open_blocks(tensor, tensor, 5).read(block)[0].data_ptr() == tensor.data_ptr()
    reader = open_blocks(tensor.t(), tensor.t().contiguous(), 5)
    left, right = reader.read(next(iter(reader.blocks())))
    assert left.data_ptr() != tensor.data_ptr()
    assert torch.equal(left, right)
