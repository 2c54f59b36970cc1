"""Any part of a tensor is read, from a file and from memory; a file that changes is an error."""

import os
from itertools import product
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from shardproof.checkpoints import pieces
from shardproof.checkpoints.pieces import OpenFiles, TensorPiece, UnreadablePiece, find_offset
from shardproof.checkpoints.safetensors_files import read_safetensors
from shardproof.errors import CannotRunError

TENSOR = torch.arange(2 * 3 * 4 * 5, dtype=torch.float32).view(2, 3, 4, 5)


@pytest.mark.parametrize("kind", ["file", "memory", "transposed"])
@pytest.mark.parametrize("leading", [(), (1,), (1, 2), (0, 1, 3)])
def test_every_part_is_read(tmp_path, kind, leading):
    save_file({"a": torch.ones(3), "w": TENSOR}, tmp_path / "w")
    with OpenFiles() as files:
        piece = {
            "file": read_safetensors(tmp_path / "w", files)["w"],
            "memory": TensorPiece(tensor=TENSOR),
            "transposed": TensorPiece(tensor=TENSOR.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)),
        }[kind]
        part = TENSOR[leading]
        for first, last in ((0, 1), (0, len(part)), (1, len(part)), (2, 2)):
            out = torch.full((max(0, last - first), *part.shape[1:]), -1.0)
            piece.read_into(out, leading, first)
            assert torch.equal(out, part[first:last])


def test_a_scalar_is_read(tmp_path):
    save_file({"s": torch.tensor(3.5)}, tmp_path / "s")
    with OpenFiles() as files:
        for piece in (read_safetensors(tmp_path / "s", files)["s"], TensorPiece(tensor=torch.tensor(3.5))):
            out = torch.zeros(1)
            piece.read_into(out, (), 0)
            assert out.item() == 3.5


def test_offsets_are_those_of_row_major_order():
    for leading in product(range(2), range(3)):
        for first in range(4):
            assert find_offset((2, 3, 4, 5), leading, first) == int(TENSOR[(*leading, first, 0)])


def test_a_file_that_is_cut_short_while_it_is_read_is_an_error(tmp_path):
    path = tmp_path / "w"
    save_file({"w": TENSOR}, path)
    with OpenFiles() as files:
        piece = read_safetensors(path, files)["w"]
        os.truncate(path, path.stat().st_size - 4)
        with pytest.raises(CannotRunError, match="was cut short while it was read"):
            piece.read_into(torch.empty(2, 3, 4, 5), (), 0)
        path.unlink()
        with pytest.raises(CannotRunError, match=r"cut short|cannot be read"):
            piece.read_into(torch.empty(2, 3, 4, 5), (), 0)


def test_few_files_are_open_at_a_time_and_none_afterwards(tmp_path, monkeypatch):
    monkeypatch.setattr(pieces, "_MOST_OPEN", 2)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with OpenFiles() as files:
        for i in range(5):
            save_file({"w": torch.full((1,), float(i))}, tmp_path / str(i))
        held = [read_safetensors(tmp_path / str(i), files)["w"] for i in range(5)]
        for _ in range(2):
            for i, piece in enumerate(held):
                out = torch.empty(1)
                piece.read_into(out, (), 0)
                assert out.item() == i
                assert len(files.descriptors) <= 2
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_what_cannot_be_read_says_why():
    piece = UnreadablePiece(shape=(2,), reason="because")
    with pytest.raises(CannotRunError, match="because"):
        _ = piece.dtype
    with pytest.raises(CannotRunError, match="because"):
        piece.read_into(torch.empty(2), (), 0)
