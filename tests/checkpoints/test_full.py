"""A full tensor from boxes of pieces, read in blocks of any size."""

import pytest
import torch

from shardproof.checkpoints import full as full_module
from shardproof.checkpoints.full import FullPair, bits_equal, full_of, full_of_placement, read_blocks
from shardproof.checkpoints.layout import Held, Split, put_together
from shardproof.checkpoints.pieces import TensorPiece

TENSOR = torch.arange(6 * 8 * 4, dtype=torch.float32).view(6, 8, 4)


def put(tensor, ranks, how):
    parts = tensor.chunk(ranks, how.dim)
    held = Held(pieces={i: (TensorPiece(tensor=part),) for i, part in enumerate(parts)}, group=tuple(range(ranks)))
    return put_together(held, how)


def read(full, size):
    return torch.cat([block.clone() for _, block in read_blocks(full, full.dtype, size)]).view(full.shape)


@pytest.mark.parametrize("size", [1, 3, 4, 7, 32, 50, 1000])
@pytest.mark.parametrize(("dim", "ranks"), [(0, 1), (0, 2), (0, 3), (1, 2), (1, 4), (2, 2), (2, 4)])
def test_it_is_read_in_blocks_of_any_size(dim, ranks, size):
    assert torch.equal(read(put(TENSOR, ranks, Split(dim=dim)), size), TENSOR)


@pytest.mark.parametrize("size", [1, 5, 16, 1000])
@pytest.mark.parametrize("dim", [0, 1, 2])
def test_a_part_of_it_is_read(dim, size):
    full = put(TENSOR, 2, Split(dim=1))
    part = full.narrow(dim, 1, 3)
    assert torch.equal(read(part, size), TENSOR.narrow(dim, 1, 2))
    (placement, *_) = full.placements
    assert torch.equal(read(full.box(placement), size), TENSOR[:, :4])
    assert torch.equal(read(full_of_placement(placement), size), TENSOR[:, :4])


def test_bits_are_compared_and_not_values():
    zeros = TensorPiece(tensor=torch.tensor([0.0, float("nan")]))
    assert bits_equal(full_of(zeros), full_of(zeros))
    assert not bits_equal(full_of(zeros), full_of(TensorPiece(tensor=torch.tensor([-0.0, float("nan")]))))


def test_a_pair_is_read_in_one_dtype(monkeypatch):
    monkeypatch.setattr(full_module, "block_bytes", lambda *_: 64)
    pair = FullPair(
        actual=put(TENSOR.double(), 2, Split(dim=0)), expected=put(TENSOR, 4, Split(dim=1)), dtype=torch.float32
    )
    assert pair.size == 16
    for block in pair.blocks():
        a, e = pair.read(block)
        assert a.dtype == e.dtype == torch.float32
        assert torch.equal(a, e)
        assert torch.equal(e, TENSOR.view(-1)[block.start : block.start + len(e)])
