"""Sizes on both sides show the layout; where they do not, values or nothing do."""

import pytest
import torch

from shardproof.checkpoints.inference import infer
from shardproof.checkpoints.layout import Held
from shardproof.checkpoints.pieces import TensorPiece
from shardproof.errors import CannotRunError


def split(tensor, ranks, dim):
    return hold(*([tensor] * ranks if dim is None else tensor.chunk(ranks, dim)))


def hold(*tensors):
    pieces = {rank: (TensorPiece(tensor=tensor),) for rank, tensor in enumerate(tensors) if tensor is not None}
    return Held(pieces=pieces, group=tuple(range(len(tensors))))


@pytest.mark.parametrize("dim", [None, 0, 1, 2])
@pytest.mark.parametrize("counts", [(1, 1), (1, 2), (2, 1), (2, 4), (4, 2), (2, 3), (3, 1)])
def test_sizes_show_the_dim(counts, dim):
    tensor = torch.randn(12, 12, 12)
    actual, expected = infer(*(split(tensor, count, dim) for count in counts))
    assert actual.shape == expected.shape == tensor.shape
    for full, count in ((actual, counts[0]), (expected, counts[1])):
        word = (
            ""
            if count == 1
            else f"replicated on {count} ranks"
            if dim is None
            else f"split on dim {dim} by {count} ranks"
        )
        assert full.how == word


def test_sides_may_be_split_on_different_dims():
    tensor = torch.randn(8, 8)
    actual, expected = infer(split(tensor, 2, 0), split(tensor, 4, 1))
    assert (actual.shape, expected.shape) == ((8, 8), (8, 8))
    assert (actual.how, expected.how) == ("split on dim 0 by 2 ranks", "split on dim 1 by 4 ranks")


def test_equal_sizes_are_decided_by_the_expected_values():
    tensor = torch.randn(8, 8)
    assert infer(split(tensor, 2, None), split(tensor, 2, None))[1].how == "replicated on 2 ranks"
    parts = split(tensor, 2, 1)
    assert [full.how for full in infer(parts, parts)] == ["split on dim 0 by 2 ranks"] * 2


def test_a_tensor_that_a_rank_lacks_is_whole_on_the_others_or_has_a_gap():
    whole = hold(torch.ones(4, 2), None)
    actual, _ = infer(whole, split(torch.ones(4, 2), 4, 0))
    assert (actual.shape, actual.missing) == ((4, 2), ())
    actual, _ = infer(whole, split(torch.ones(8, 2), 4, 0))
    assert (actual.shape, actual.missing) == ((8, 2), ("rank 1",))


def test_shapes_that_do_not_fit_come_as_near_as_they_can():
    actual, expected = infer(split(torch.randn(10, 4), 2, 0), split(torch.randn(12, 4), 4, 0))
    assert (actual.shape, expected.shape) == ((10, 4), (12, 4))
    actual, expected = infer(split(torch.randn(4, 12), 2, 1), split(torch.randn(12, 4), 4, 0))
    assert (actual.shape, expected.shape) == ((4, 12), (12, 4))


def test_pieces_that_fit_in_no_way_are_refused():
    with pytest.raises(CannotRunError, match="cannot be put together"):
        infer(hold(torch.ones(2, 3), torch.ones(3, 2)), hold(torch.ones(5, 3)))
    with pytest.raises(CannotRunError, match="cannot be put together"):
        infer(hold(torch.ones(2), torch.ones(3, 2)), hold(torch.ones(5, 3)))
