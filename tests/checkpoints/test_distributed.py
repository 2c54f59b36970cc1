"""Folders of torch.distributed.checkpoint: read without unpickling; hostile and damaged ones are one line."""

import os
import pickle
from pathlib import Path

import pytest
import torch
from tests.checkpoints.saving import make_model, save_distributed, save_one, save_ranks
from torch.distributed.checkpoint.metadata import MetadataIndex

from shardproof.checkpoints import compare_paths
from shardproof.checkpoints.damage import Kind
from shardproof.checkpoints.distributed import METADATA
from shardproof.errors import CannotRunError

MODEL = make_model(layers=2)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    base = tmp_path_factory.mktemp("saved")
    return {ranks: save_distributed(base / str(ranks), MODEL, ranks) for ranks in (2, 4)}


@pytest.fixture
def folder(folders, tmp_path):
    for path in folders[2].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


@pytest.mark.parametrize(("actual", "expected"), [(2, 4), (4, 2), (2, 2)])
def test_folders_of_2_and_4_ranks_are_equal(folders, actual, expected):
    compared = compare_paths(folders[actual], folders[expected])
    assert compared.equal, str(compared)
    assert {row.name for row in compared.rows} == set(MODEL)


def test_they_are_equal_to_ranks_files(folders, tmp_path):
    assert compare_paths(folders[4], save_ranks(tmp_path / "e", MODEL, 2)).equal
    other = MODEL | {"layers.1.down.weight": MODEL["layers.1.down.weight"].roll(6, 1)}
    compared = compare_paths(folders[4], save_one(tmp_path / "o", other))
    (row,) = [row for row in compared.rows if row.status != "passed"]
    assert (row.damage.kind, row.damage.order, row.layouts[0]) == (Kind.BLOCKS_SWAPPED, (1, 2, 3, 0), "in 4 chunks")


def change(folder, edit):
    """Writes the metadata anew, as PyTorch's own classes."""
    metadata = pickle.loads((folder / METADATA).read_bytes())
    edit(metadata)
    (folder / METADATA).write_bytes(pickle.dumps(metadata))


def first_index(metadata, name):
    return next(index for index in metadata.storage_data if index.fqn == name)


NAME = "layers.0.up.weight"


def chunks_of(metadata):
    return metadata.state_dict_metadata[NAME].chunks


def move(metadata, field, value):
    setattr(metadata.storage_data[first_index(metadata, NAME)], field, value)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda m: move(m, "relative_path", "../secret"), "which is not inside the folder"),
        (lambda m: move(m, "relative_path", "/etc/passwd"), "which is not inside the folder"),
        (lambda m: move(m, "relative_path", 3), "is no metadata of a checkpoint"),
        (lambda m: move(m, "offset", -1), "is no metadata of a checkpoint"),
        (lambda m: move(m, "transform_descriptors", ["zstd"]), "is compressed"),
        (lambda m: m.storage_data.pop(first_index(m, NAME)), "that is in no file"),
        (lambda m: chunks_of(m).append(chunks_of(m)[0]), "overlap or lie outside"),
        (lambda m: setattr(chunks_of(m)[0], "sizes", torch.Size([25, 8])), "overlap or lie outside"),
        (lambda m: setattr(chunks_of(m)[0], "sizes", torch.Size([13, 8])), "overlap or lie outside"),
        (lambda m: setattr(chunks_of(m)[0], "offsets", torch.Size([0])), "overlap or lie outside"),
        (lambda m: setattr(m, "state_dict_metadata", 3), "is no metadata of a checkpoint"),
        (lambda m: setattr(m, "storage_data", None), "is no metadata of a checkpoint"),
        (lambda m: m.state_dict_metadata.update({3: m.state_dict_metadata[NAME]}), "is no metadata of a checkpoint"),
        (
            lambda m: setattr(m.state_dict_metadata[NAME].properties, "dtype", "float32"),
            "is no metadata of a checkpoint",
        ),
    ],
    ids=range(14),
)
def test_metadata_that_does_not_fit_is_one_line(folder, edit, words):
    change(folder, edit)
    with pytest.raises(CannotRunError, match=words) as caught:
        compare_paths(folder, folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda m: move(m, "relative_path", "missing.distcp"), "cannot be read: No such file"),
        (lambda m: move(m, "offset", 10**9), "cannot be read as a file of torch.save"),
        (lambda m: move(m, "length", 3), "cannot be read as a file of torch.save"),
        (
            lambda m: m.storage_data.update({first_index(m, NAME): m.storage_data[first_index(m, "layers.0.up.bias")]}),
            "is not what the metadata says",
        ),
    ],
    ids=range(4),
)
def test_a_chunk_that_cannot_be_read_leaves_its_tensor_uncompared(folder, folders, edit, words):
    change(folder, edit)
    compared = compare_paths(folder, folders[4])
    (row,) = [row for row in compared.rows if row.status != "passed"]
    assert (row.name, row.status, row.unreadable) == (NAME, "skipped", True)
    assert words in row.reason


def test_a_chunk_that_is_not_there_is_a_missing_shard(folder, folders):
    change(folder, lambda m: chunks_of(m).pop())
    compared = compare_paths(folder, folders[4])
    (row,) = [row for row in compared.rows if row.status != "passed"]
    assert (row.name, row.damage.kind) == (NAME, Kind.SHARD_ABSENT)
    assert row.told == "a shard is missing: 96 of 192 elements of actual has none, the others have"


def test_a_chunk_of_a_tensor_that_is_one_may_have_no_offset(folder, folders):
    def edit(metadata):
        index = first_index(metadata, "norm.weight")
        metadata.storage_data[MetadataIndex("norm.weight")] = metadata.storage_data.pop(index)

    change(folder, edit)
    assert compare_paths(folder, folders[4]).equal


def test_damage_in_a_chunk_is_found(folder, folders):
    path = next(Path(folder).glob("__1_*.distcp"))
    content = bytearray(path.read_bytes())
    values = MODEL[NAME][12:].contiguous().numpy().tobytes()
    at = content.index(values)
    content[at + 3] ^= 0x40
    path.write_bytes(content)
    (row,) = [row for row in compare_paths(folder, folders[4]).rows if row.status != "passed"]
    assert (row.name, row.damage.kind, row.comparison.worst.index) == (NAME, Kind.FEW, (12, 0))


@pytest.mark.parametrize("name", [METADATA, "__1_0.distcp"])
def test_a_pipe_is_refused_and_not_waited_for(folder, folders, name):
    (folder / name).unlink()
    os.mkfifo(folder / name)
    if name == METADATA:
        with pytest.raises(CannotRunError, match="is no metadata of a checkpoint: needed is a file"):
            compare_paths(folder, folders[4])
        return
    unreadable = [row for row in compare_paths(folder, folders[4]).rows if row.unreadable]
    assert unreadable
    assert all("it is no regular file" in row.reason for row in unreadable)
