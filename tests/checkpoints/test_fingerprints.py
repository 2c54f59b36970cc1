"""Equal values have equal fingerprints, in any layout and any blocks; others do not."""

import pytest
import torch

from shardproof.checkpoints import fingerprints
from shardproof.checkpoints.fingerprints import fingerprint, fingerprint_whole
from shardproof.checkpoints.full import full_of
from shardproof.checkpoints.pieces import TensorPiece

TENSOR = torch.randn(6, 4, 10, generator=torch.Generator().manual_seed(0))


def take(tensor, dim, dtype=None):
    return fingerprint(full_of(TensorPiece(tensor=tensor)), dim, dtype or tensor.dtype)


@pytest.mark.parametrize("block", [1, 7, 10, 33, 1 << 17])
@pytest.mark.parametrize("dim", [0, 1, 2])
def test_they_do_not_depend_on_blocks(monkeypatch, dim, block):
    whole = take(TENSOR, dim)
    monkeypatch.setattr(fingerprints, "_BLOCK", block)
    assert torch.equal(take(TENSOR, dim).values, whole.values)


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_they_move_with_the_values_and_change_with_each(dim):
    order = torch.randperm(TENSOR.shape[dim])
    assert torch.equal(take(TENSOR.index_select(dim, order), dim).values, take(TENSOR, dim).values[order])
    changed = TENSOR.clone()
    changed.view(-1)[77] += 1e-6
    assert int((take(changed, dim).values != take(TENSOR, dim).values).sum()) == 1
    assert len(set(take(TENSOR, dim).values.tolist())) == TENSOR.shape[dim]


def test_those_of_rows_are_those_of_columns_of_the_transposed():
    matrix = TENSOR[0]
    assert torch.equal(take(matrix, 0).values, take(matrix.t().contiguous(), 1).values)
    assert not torch.equal(take(matrix[:, :4], 0).values, take(matrix[:, :4], 1).values)


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.bfloat16, torch.float8_e4m3fn, torch.int8, torch.bool, torch.complex64, torch.uint8]
)
def test_every_dtype_has_them(dtype):
    tensor = (TENSOR * 3).clamp(min=0).to(dtype)
    assert torch.equal(take(tensor, 0).values, take(tensor.clone(), 0).values)
    other = torch.cat([tensor[:, :, 1:], tensor[:, :, :1]], 2)
    assert not torch.equal(take(tensor, 0).values, take(other, 0).values)


def test_zeros_are_told_and_their_sign_does_not_count():
    tensor = TENSOR.clone()
    tensor[2] = 0.0
    tensor[3] = -0.0
    found = take(tensor, 0)
    assert found.zero.tolist() == [False, False, True, True, False, False]
    assert found.values[2] == found.values[3]


def test_values_are_converted_first():
    assert torch.equal(take(TENSOR, 0, torch.bfloat16).values, take(TENSOR.bfloat16(), 0).values)


def test_that_of_a_whole_goes_by_order_and_not_by_shape():
    one = fingerprint_whole(full_of(TensorPiece(tensor=TENSOR)), torch.float32)
    assert fingerprint_whole(full_of(TensorPiece(tensor=TENSOR.view(-1, 8))), torch.float32) == one
    other = full_of(TensorPiece(tensor=TENSOR.transpose(0, 1).contiguous()))
    assert fingerprint_whole(other, torch.float32) != one
