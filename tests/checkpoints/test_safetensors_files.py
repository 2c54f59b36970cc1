"""Files and folders with an index; every way in which an index can be bad has words."""

import json

import pytest
import torch
from safetensors.torch import save_file
from tests.checkpoints.saving import make_model, save_indexed

from shardproof.checkpoints.opening import open_checkpoint
from shardproof.checkpoints.pieces import OpenFiles
from shardproof.errors import CannotRunError

INDEX = "model.safetensors.index.json"


@pytest.fixture
def folder(tmp_path):
    return save_indexed(tmp_path / "folder", make_model(layers=1))


def open_names(path):
    with OpenFiles() as files:
        return set(open_checkpoint(path, files).tensors)


def change(folder, edit):
    document = json.loads((folder / INDEX).read_text())
    edit(document["weight_map"])
    (folder / INDEX).write_text(json.dumps(document))


def test_a_folder_with_an_index_has_its_tensors_and_those_that_the_index_leaves_out(folder):
    assert open_names(folder) == set(make_model(layers=1))
    change(folder, lambda named: named.pop("norm.weight"))
    assert "norm.weight" in open_names(folder)


@pytest.mark.parametrize(
    "path", ["../secret.safetensors", "/etc/passwd", "a/../../secret.safetensors", "..\\secret", ""]
)
def test_an_index_names_files_inside_its_folder_alone(folder, path):
    save_file({"norm.weight": torch.ones(8)}, folder.parent / "secret.safetensors")
    change(folder, lambda named: named.update({"norm.weight": path}))
    with pytest.raises(CannotRunError, match="which is not inside its folder"):
        open_names(folder)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is no index"),
        ("[" * 100_000, "is no index"),
        ("[1]", "is no index: needed is"),
        ("{}", "is no index: needed is"),
        ('{"weight_map": {"w": 3}}', "is no index: needed is"),
        ('{"weight_map": {"w": "a", "w": "b"}}', "'w' is there twice"),
        ('{"weight_map": {"w": "a"}, "weight_map": {}}', "'weight_map' is there twice"),
        ('{"weight_map": {"w": "missing.safetensors"}}', "does not exist"),
        ('{"weight_map": {"w": "."}}', "which is not inside its folder|is a directory"),
        ("\ud800".encode("utf-8", "surrogatepass"), "is no index"),
    ],
)
def test_a_bad_index_is_one_line(folder, text, words):
    (folder / INDEX).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(CannotRunError, match=words) as caught:
        open_names(folder)
    assert "\n" not in str(caught.value)


def test_a_tensor_that_its_file_has_not_or_that_two_have_is_refused(folder):
    change(folder, lambda named: named.update({"other": named["norm.weight"]}))
    with pytest.raises(CannotRunError, match="has other, and it has not"):
        open_names(folder)
    change(folder, lambda named: named.pop("other"))
    save_file({"norm.weight": torch.ones(8), "new": torch.ones(1)}, folder / "more.safetensors")
    change(folder, lambda named: named.update({"new": "more.safetensors"}))
    with pytest.raises(CannotRunError, match=r"has norm\.weight in two files"):
        open_names(folder)


def test_links_are_followed_as_in_a_cache_of_a_hub(folder, tmp_path):
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    for path in list(folder.iterdir()):
        path.rename(blobs / path.name)
        path.symlink_to(blobs / path.name)
    assert open_names(folder) == set(make_model(layers=1))
    first = next(path for path in folder.iterdir() if path.suffix == ".safetensors")
    first.unlink()
    first.symlink_to(first.name)
    with pytest.raises(CannotRunError, match="cannot be read: Too many levels of symbolic links"):
        open_names(folder)


def test_sizes_must_be_those_of_the_shape(tmp_path):
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "w").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(CannotRunError, match="damaged"):
        open_names(tmp_path / "w")
