"""Of several explanations the simplest that explains all is taken; what is broken in two ways is not called by one."""

import pytest
import torch

from shardproof.checkpoints.damage import Kind
from shardproof.checkpoints.diagnosis import diagnose
from shardproof.checkpoints.full import full_of
from shardproof.checkpoints.pieces import TensorPiece

EXPECTED = torch.randn(24, 16, 4, generator=torch.Generator().manual_seed(0))


def find(actual, expected=EXPECTED):
    return diagnose(*(full_of(TensorPiece(tensor=side)) for side in (actual, expected)), expected.dtype)


def change(*edits):
    actual = EXPECTED.clone()
    for part, value in edits:
        actual[part] = value
    return actual


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_the_dim_is_that_along_which_something_moved(dim):
    found = find(EXPECTED.flip(dim))
    assert (found.kind, found.dim) == (Kind.REVERSED, dim)
    assert find(EXPECTED.roll(EXPECTED.shape[dim] // 2, dim)).dim == dim


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_a_part_is_that_of_the_dim_in_which_it_is_smallest(dim):
    actual = EXPECTED.clone()
    actual.narrow(dim, 1, 2).add_(torch.randn(1))
    found = find(actual)
    assert (found.kind, found.dim, found.first, found.last) == (Kind.SHARD_STALE, dim, 1, 3)


@pytest.mark.parametrize(
    "actual",
    [
        change((slice(0, 3), 0.0), (slice(8, 11), 0.0)),
        change((slice(0, 3), torch.randn(3, 16, 4)), (slice(8, 11), torch.randn(3, 16, 4))),
        EXPECTED.flip(0) * 2,
        EXPECTED.flip(0).flip(1),
        change((slice(0, 12), EXPECTED[:12] * 2), (slice(12, 24), EXPECTED[12:] * 3)),
    ],
    ids=range(5),
)
def test_two_damages_are_not_called_by_one(actual):
    assert find(actual).kind is Kind.DIFFERS


def test_a_square_matrix_that_is_transposed_is_named():
    square = EXPECTED.view(-1)[:400].view(20, 20)
    assert find(square.t().contiguous(), square).kind is Kind.TRANSPOSED
    other = square.t().contiguous()
    other[0, 0] += 1
    other[3:9, 2:8] += 1
    assert find(other, square).kind is Kind.DIFFERS


def test_nan_in_the_rows_of_one_shard_and_elsewhere_are_told_apart():
    assert find(change((slice(6, 12), float("nan")))).kind is Kind.SHARD_NAN
    assert find(change(((slice(6, 12), 3), float("nan")))).kind is Kind.NOT_FINITE
    assert find(change((slice(6, 12), float("nan")), (0, 1.0))).kind is Kind.NOT_FINITE


@pytest.mark.parametrize(
    ("actual", "kind"),
    [
        (torch.cat([EXPECTED, EXPECTED[:3]]), Kind.PADDED),
        (EXPECTED[:, :9], Kind.TRUNCATED),
        (EXPECTED.reshape(16, 24, 4), Kind.RESHAPED),
        (EXPECTED.flatten(), Kind.RESHAPED),
        (EXPECTED.transpose(0, 1).contiguous(), Kind.SHAPE),
        (torch.cat([EXPECTED[:1], EXPECTED]), Kind.SHAPE),
        (torch.ones(3), Kind.SHAPE),
    ],
    ids=range(7),
)
def test_shapes_that_differ(actual, kind):
    assert find(actual).kind is kind
