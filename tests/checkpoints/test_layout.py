"""Pieces are put together as the layout says; sizes that do not fit are refused in words."""

import pytest
import torch

from shardproof.checkpoints.full import read_blocks
from shardproof.checkpoints.layout import Held, Replicated, Split, put_together
from shardproof.checkpoints.pieces import TensorPiece
from shardproof.errors import CannotRunError


def hold(*tensors, group=None):
    pieces = {rank: (TensorPiece(tensor=tensor),) for rank, tensor in enumerate(tensors) if tensor is not None}
    return Held(pieces=pieces, group=tuple(range(len(tensors))) if group is None else group)


def read(full):
    return torch.cat([block.clone() for _, block in read_blocks(full, full.dtype, 5)]).view(full.shape)


def rows(*numbers):
    """A row for each number, which holds it."""
    return torch.tensor(numbers, dtype=torch.float32)[:, None].expand(-1, 3).contiguous()


@pytest.mark.parametrize("dim", [0, 1])
def test_parts_of_different_sizes_are_put_one_after_another(dim):
    tensor = torch.randn(7, 5)
    assert torch.equal(read(put_together(hold(*tensor.chunk(3, dim)), Split(dim=dim))), tensor)


def test_replicas_are_copies_of_the_first():
    full = put_together(hold(rows(1, 2), rows(1, 2), rows(1, 3)), Replicated())
    assert torch.equal(read(full), rows(1, 2))
    assert [copy.holder for copy in full.copies] == ["rank 1", "rank 2"]


def test_packed_sections_are_taken_apart():
    # gate 0..3 and up 10..13, each split by two ranks
    held = hold(rows(0, 1, 10, 11), rows(2, 3, 12, 13))
    assert read(put_together(held, Split(dim=0, sections=2)))[:, 0].tolist() == [0, 1, 2, 3, 10, 11, 12, 13]
    held = hold(*(rows(0, 1, 10, 11).t(), rows(2, 3, 12, 13).t()))
    assert read(put_together(held, Split(dim=1, sections=2)))[0].tolist() == [0, 1, 2, 3, 10, 11, 12, 13]


def test_query_key_and_value_are_sections_of_heads():
    # 4 query heads, 2 key heads, 2 value heads, of one row each
    held = hold(rows(0, 1, 10, 20), rows(2, 3, 11, 21))
    assert read(put_together(held, Split(dim=0, sections=(4, 2, 2))))[:, 0].tolist() == [0, 1, 2, 3, 10, 11, 20, 21]


def test_heads_that_are_fewer_than_ranks_are_repeated():
    held = hold(rows(0, 10, 20), rows(1, 10, 20), rows(2, 11, 21), rows(3, 11, 21))
    full = put_together(held, Split(dim=0, sections=(4, 2, 2)))
    assert read(full)[:, 0].tolist() == [0, 1, 2, 3, 10, 11, 20, 21]
    assert [copy.holder for copy in full.copies] == ["rank 1", "rank 1", "rank 3", "rank 3"]


@pytest.mark.parametrize("ranks", [1, 2])
def test_groups_are_put_in_the_order_of_sections(ranks):
    grouped = rows(0, 1, 10, 20, 2, 3, 11, 21)  # two groups: two query heads, a key head, a value head
    held = hold(*grouped.chunk(ranks))
    full = put_together(held, Split(dim=0, sections=(4, 2, 2), groups=2))
    assert read(full)[:, 0].tolist() == [0, 1, 2, 3, 10, 11, 20, 21]


def test_padding_is_left_out():
    held = hold(rows(0, 1, 2), rows(3, 4, -1))
    assert read(put_together(held, Split(dim=0, size=5)))[:, 0].tolist() == [0, 1, 2, 3, 4]


def test_a_missing_part_is_told_and_is_zero():
    full = put_together(hold(rows(1, 2), None, rows(5, 6)), Split(dim=0))
    assert full.missing == ("rank 1",)
    assert read(full)[:, 0].tolist() == [1, 2, 0, 0, 5, 6]


@pytest.mark.parametrize(
    ("held", "how", "words"),
    [
        (
            hold(rows(1), torch.ones(1, 2)),
            Split(dim=0),
            r"pieces of shapes \[1, 3\], \[1, 2\] cannot be put together on dim 0",
        ),
        (hold(rows(1), rows(1)), Split(dim=2), "cannot be put together on dim 2"),
        (hold(rows(1), rows(1, 2)), Replicated(), "is replicated by the layout"),
        (hold(rows(1), rows(1).double()), Split(dim=0), "different dtypes: float32, float64"),
        (hold(rows(1), rows(1)), Split(dim=0, size=3), r"says size 3 on dim 0, and the ranks hold 2 together"),
        (hold(rows(1), rows(1)), Split(dim=0, sections=2), "sections of 2, 2 units don't fit pieces of 1"),
        (hold(rows(1), rows(1)), Split(dim=0, sections=(3, 1)), "a section of 3 units cannot be split by 2 ranks"),
        (hold(rows(1, 2), rows(1)), Split(dim=0, sections=2), "needed are equal shapes"),
        (hold(rows(1, 2), rows(1, 2)), Split(dim=0, sections=(2, 2), groups=3), "3 groups cannot be split by 2 ranks"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(held, how, words):
    with pytest.raises(CannotRunError, match=words):
        put_together(held, how)


def test_copies_of_other_shapes_are_refused():
    held = Held(pieces={0: (TensorPiece(tensor=rows(1)), TensorPiece(tensor=rows(1, 2)))})
    with pytest.raises(CannotRunError, match="copies of it have different shapes"):
        put_together(held, Replicated())
