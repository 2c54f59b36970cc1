"""What a path is: a file, a folder of any kind, or nothing that can be compared."""

import os

import pytest
import torch
from tests.checkpoints.saving import make_model, save_grid, save_indexed, save_one, save_ranks

from shardproof.checkpoints.opening import open_checkpoint
from shardproof.checkpoints.pieces import OpenFiles
from shardproof.errors import CannotRunError

MODEL = make_model(layers=2)


def open_path(path):
    with OpenFiles() as files:
        return open_checkpoint(path, files)


@pytest.mark.parametrize(
    ("save", "told"),
    [
        (lambda path: save_one(path, MODEL), ""),
        (lambda path: save_indexed(path, MODEL), ""),
        (lambda path: save_ranks(path, MODEL, 2), "2 ranks (rank=2)"),
        (lambda path: save_ranks(path, MODEL, 4, "model-tp{}.safetensors"), "4 ranks (tp=4)"),
        (lambda path: save_grid(path, MODEL, 2, 2), "4 ranks (pp=2, tp=2)"),
        (lambda path: save_grid(path / "iter_0000100", MODEL, 2, 1).parent, "2 ranks (pp=1, tp=2)"),
    ],
    ids=["file", "index", "ranks", "tp", "grid", "iteration"],
)
def test_every_kind_is_opened(tmp_path, save, told):
    opened = open_path(save(tmp_path / "x"))
    assert opened.told == told
    assert set(opened.tensors) == set(MODEL)


def test_files_without_an_index_are_one_checkpoint_if_they_share_no_name(tmp_path):
    folder = save_indexed(tmp_path / "x", MODEL)
    (folder / "model.safetensors.index.json").unlink()
    assert set(open_path(folder).tensors) == set(MODEL)
    save_one(folder / "again.safetensors", {"norm.weight": torch.ones(8)})
    with pytest.raises(CannotRunError, match=r"has norm\.weight in two files, and nothing in their names says"):
        open_path(folder)


@pytest.mark.parametrize("name", ["missing", "a\0b"])
def test_what_is_not_there_is_one_line(tmp_path, name):
    with pytest.raises(CannotRunError, match=r"does not exist|is no path"):
        open_path(tmp_path / name)


def test_folders_without_a_checkpoint_are_one_line(tmp_path):
    with pytest.raises(CannotRunError, match="is a directory without tensors"):
        open_path(tmp_path)
    for number in (100, 200):
        save_grid(tmp_path / f"iter_{number}", MODEL, 1, 1)
    with pytest.raises(CannotRunError, match="has 2 iterations; give one of their folders"):
        open_path(tmp_path)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(CannotRunError, match="is no regular file"):
        open_path(tmp_path / "pipe.safetensors")
    with pytest.raises(CannotRunError, match="is no regular file"):
        open_path(tmp_path)
