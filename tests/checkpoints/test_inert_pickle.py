"""Metadata is read as data: no name that it holds is imported, called or changed."""

import pickle
import pickletools

import pytest
import torch
from torch.distributed.checkpoint import metadata as torch_metadata
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)

from shardproof.checkpoints.inert_pickle import read_metadata
from shardproof.errors import CannotRunError


@pytest.fixture
def read(tmp_path):
    def read_bytes(raw):
        path = tmp_path / ".metadata"
        path.write_bytes(raw)
        return read_metadata(path)

    return read_bytes


def make(tmp_path):
    chunk = ChunkStorageMetadata(offsets=torch.Size([0, 2]), sizes=torch.Size([3, 4]))
    return Metadata(
        state_dict_metadata={
            "w": TensorStorageMetadata(
                properties=TensorProperties(dtype=torch.bfloat16), size=torch.Size([3, 6]), chunks=[chunk]
            )
        },
        planner_data={"w": ("w",)},
        storage_data={MetadataIndex("w", [0, 2]): _StorageInfo("__0_0.distcp", 5, 7)},
        storage_meta=StorageMeta(checkpoint_id=tmp_path, save_id="x"),
        version="1.0.0",
    )


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_what_pytorch_writes_is_read(read, tmp_path, protocol):
    found = read(pickle.dumps(make(tmp_path), protocol))
    entry = found.state_dict_metadata["w"]
    assert (entry.properties.dtype, tuple(entry.size)) == (torch.bfloat16, (3, 6))
    assert [(tuple(chunk.offsets), tuple(chunk.sizes)) for chunk in entry.chunks] == [((0, 2), (3, 4))]
    ((index, info),) = found.storage_data.items()
    assert (index.fqn, tuple(index.offset)) == ("w", (0, 2))
    assert (info.relative_path, info.offset, info.length) == ("__0_0.distcp", 5, 7)
    assert not isinstance(found, Metadata)


# An array of a terabyte, and a value with the number 4 billion: instructions that take memory before they fail.
ARRAY = b"\x80\x05\x96" + (1 << 40).to_bytes(8, "little") + b"xx."
NUMBERED = b"\x80\x04Nr\xff\xff\xff\xff."
PERSISTENT = b"\x80\x04NQ."


class Call:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def fail():
    pytest.fail("called")


@pytest.mark.parametrize(
    "value",
    [
        Call(fail),
        Call(eval, "1"),
        Call(getattr, "x", "upper"),
        Call(torch.load, "x"),
        Call(torch.serialization.load, "x"),
        Call(print, "x"),
        torch.ones(1),
        pickle.Unpickler,
        {"w": Call(fail)},
    ],
    ids=range(9),
)
def test_any_other_name_is_refused_before_it_is_looked_up(read, value):
    with pytest.raises(
        CannotRunError, match="which has no place in a checkpoint's metadata and could run code"
    ) as caught:
        read(pickle.dumps(value))
    assert "\n" not in str(caught.value)


def test_pytorchs_own_classes_cannot_be_changed(read):
    # c<module>\n<name>\n (None, {"attribute": 1}) b: an instruction that sets an attribute of what is on the stack
    raw = b"ctorch.distributed.checkpoint.metadata\nMetadata\n(N}X\x08\x00\x00\x00poisonedK\x01stb."
    assert [op.name for op, _, _ in pickletools.genops(raw)][-2:] == ["BUILD", "STOP"]
    with pytest.raises(CannotRunError, match="is no metadata of a checkpoint"):
        read(raw)
    assert not hasattr(torch_metadata.Metadata, "poisoned")
    assert not hasattr(read(b"ctorch.distributed.checkpoint.metadata\nMetadata\n."), "poisoned")


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"hello",
        b"\x80\x04",
        b"\x80\x04N",
        b"(" * 100_000,
        b"\x80\x04\x8e" + b"\xff" * 8,
        ARRAY,
        NUMBERED,
        PERSISTENT,
    ],
)
def test_what_is_no_pickle_is_one_line(read, raw):
    with pytest.raises(CannotRunError, match="is no metadata of a checkpoint") as caught:
        read(raw)
    assert "\n" not in str(caught.value)


def test_every_truncation_is_one_line(read, tmp_path):
    raw = pickle.dumps(make(tmp_path))
    for size in range(len(raw)):
        with pytest.raises(CannotRunError, match="is no metadata of a checkpoint"):
            read(raw[:size])
