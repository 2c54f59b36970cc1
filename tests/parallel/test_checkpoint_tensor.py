"""A rank offers the pieces that it counts, reads those that it holds, and hands out their memory."""

import pytest
import torch

from shardproof.parallel.checkpoint_tensor import CheckpointTensor
from shardproof.parallel.sharding import Section, replicated, split_padded, split_sections, take

FULL = torch.arange(24.0).view(12, 2)
HEADS = [Section(length=8, unit=2), Section(length=4, unit=2, shared=True)]


def fused(rank):
    return split_sections((12, 2), 0, HEADS, rank=rank, size=4)


def wrap(sharding):
    return CheckpointTensor(take(FULL, sharding), sharding)


def offsets(chunks):
    return [(tuple(chunk.offsets), tuple(chunk.sizes)) for chunk in chunks]


def written(tensor):
    return offsets(item.tensor_data.chunk for item in tensor.__create_write_items__("w", tensor))


def test_it_has_the_full_shape_and_the_ranks_memory():
    tensor = wrap(fused(1))
    assert (tensor.shape, tensor.dtype, tensor.local.shape) == (FULL.shape, FULL.dtype, (4, 2))
    with pytest.raises(NotImplementedError, match="has no ops"):
        tensor + 1


def test_a_shared_piece_is_written_by_the_first_rank_that_holds_it_and_read_by_all():
    assert written(wrap(fused(2))) == [((4, 0), (2, 2)), ((10, 0), (2, 2))]
    assert written(wrap(fused(3))) == [((6, 0), (2, 2))]
    assert offsets(wrap(fused(3)).__create_chunk_list__()) == [((6, 0), (2, 2)), ((10, 0), (2, 2))]


def padded(rank):
    return split_padded((12, 2), 0, multiple=5, rank=rank, size=4)


def whole(rank):
    return replicated((12, 2), rank=rank, size=4)


@pytest.mark.parametrize("sharding_of_rank", [fused, padded, whole])
def test_over_all_ranks_every_element_is_written_once(sharding_of_rank):
    found = torch.zeros(12, 2)
    for rank in range(4):
        tensor = wrap(sharding_of_rank(rank))
        for item in tensor.__create_write_items__("w", tensor):
            chunk = item.tensor_data.chunk
            found[chunk.offsets[0] : chunk.offsets[0] + chunk.sizes[0]] += tensor.__get_tensor_shard__(item.index)
    assert torch.equal(found, FULL)


def test_what_is_read_goes_into_the_ranks_memory():
    tensor = wrap(fused(3))
    (_, shared) = tensor.__create_chunk_list__()
    index = type("Index", (), {"offset": shared.offsets})
    tensor.__get_tensor_shard__(index).fill_(-1)
    assert tensor.local[2:].unique().tolist() == [-1]
    assert tensor.local[:2].min() > 0
