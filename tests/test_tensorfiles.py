"""Every way in which a tensor file can be bad has words, and nothing is ever unpickled."""

import json
import os
import pickle
import struct

import pytest
import torch
from safetensors.torch import save_file

from shardproof.errors import CannotRunError
from shardproof.tensorfiles import open_tensor_file, printable


def with_header(header, data=b"", length=None):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


class Explosive:
    def __reduce__(self):
        return (pytest.fail, ("unpickled",))


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}

BAD_FILES = {
    "empty": (b"", "is empty"),
    "few bytes": (b"abc", "too short"),
    "text": (b"hello, this is no tensor", "does not begin with"),
    "zip": (b"PK\x03\x04" + bytes(100), "zip archive.*pickle"),
    "pickle": (pickle.dumps(Explosive()), "is a pickle"),
    "old pickle": (b"\x80\x02}q\x00(X\x01" + bytes(50), "is a pickle"),
    "cut in the header": (with_header({"w": ENTRY}, length=5000), "cut short"),
    "cut in the data": (with_header({"w": ENTRY}, b"1234"), "cut short.*need 8 bytes and it has 4"),
    "header not json": (with_header(b"{not json"), "not safetensors'"),
    "header not utf-8": (with_header(b'{"\xff": 1}'), "not safetensors'"),
    "header a list": (with_header([1, 2]), "not safetensors'"),
    "entry a number": (with_header({"w": 3}), "not safetensors'"),
    "no offsets": (with_header({"w": {"dtype": "F32", "shape": [2]}}), "not safetensors'"),
    "shape too large": (with_header({"w": {**ENTRY, "shape": [3]}}, bytes(8)), "damaged"),
    "unknown dtype": (with_header({"w": {**ENTRY, "dtype": "X9"}}, bytes(8)), "damaged"),
    "trailing bytes": (with_header({"w": ENTRY}, bytes(80)), "damaged"),
    "a name twice": (
        with_header(b'{"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "w": {}}', bytes(8)),
        "not safetensors' .*'w' is there twice",
    ),
    "deeply nested": (with_header(b"[" * 100_000), "not safetensors'"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_bad_files(tmp_path, kind):
    content, words = BAD_FILES[kind]
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(CannotRunError, match=words) as caught, open_tensor_file(path):
        pass
    assert "bad.safetensors" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_torch_save_writes_is_called_by_its_name(tmp_path):
    torch.save({"w": torch.ones(2)}, tmp_path / "w.pt")
    with pytest.raises(CannotRunError, match=r"as torch\.save writes"), open_tensor_file(tmp_path / "w.pt"):
        pass


@pytest.mark.parametrize(
    ("path", "words"), [("missing", "does not exist"), (".", "is a directory"), ("a\0b", "is no path|does not exist")]
)
def test_bad_paths(tmp_path, path, words):
    with pytest.raises(CannotRunError, match=words), open_tensor_file(tmp_path / path):
        pass


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CannotRunError, match="is no regular file"), open_tensor_file(tmp_path / "pipe"):
        pass


def test_every_truncation_is_noticed(tmp_path):
    whole = tmp_path / "whole"
    save_file({"a": torch.ones(3), "b": torch.zeros(2, 2)}, whole)
    content = whole.read_bytes()
    cut = tmp_path / "cut"
    for size in range(len(content)):
        cut.write_bytes(content[:size])
        with pytest.raises(CannotRunError), open_tensor_file(cut):
            pass


def test_a_good_file_is_read_in_file_order(tmp_path):
    tensors = {"z": torch.randn(3, 2, dtype=torch.float64), "a": torch.randn(4), "m": torch.arange(5)}
    raw = {}
    data = b""
    for name, tensor in tensors.items():
        part = tensor.numpy().tobytes()
        dtype = {torch.float64: "F64", torch.float32: "F32", torch.int64: "I64"}[tensor.dtype]
        offsets = [len(data), len(data) + len(part)]
        raw[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": offsets}
        data += part
    path = tmp_path / "good"
    path.write_bytes(with_header({"__metadata__": {"by": "hand"}, **dict(reversed(raw.items()))}, data))
    with open_tensor_file(path) as file:
        assert [entry.name for entry in file.entries] == ["z", "a", "m"]
        assert [entry.shape for entry in file.entries] == [(3, 2), (4,), (5,)]
        content = path.read_bytes()
        for entry in file.entries:
            assert content[entry.start : entry.stop] == tensors[entry.name].numpy().tobytes()
        for name, tensor in tensors.items():
            assert torch.equal(file.read(name), tensor)
        with pytest.raises(CannotRunError, match="cannot be read"):
            file.read("other")


def test_a_header_whose_length_looks_like_a_pickle_is_read(tmp_path):
    path = tmp_path / "t"
    entry = json.dumps({"w": ENTRY}).encode()
    path.write_bytes(with_header(entry.ljust(0x280), bytes(8)))
    assert path.read_bytes().startswith(b"\x80\x02")
    with open_tensor_file(path) as file:
        assert torch.equal(file.read("w"), torch.zeros(2))


def test_control_characters_are_escaped():
    assert printable("a\x1b[31m\n\u202e\ud800 \u00e9") == "a\\x1b[31m\\n\\u202e\\ud800 \u00e9"
