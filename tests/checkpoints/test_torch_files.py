"""Files of torch.save: any tensor in them is found; nothing in them is run, and damage is one line."""

import argparse
import io
import pickle
import zipfile

import pytest
import torch
from tests.checkpoints.saving import make_model, save_one, save_ranks, save_torch_ranks

from shardproof.checkpoints import compare_paths
from shardproof.checkpoints.full import full_of, read_blocks
from shardproof.checkpoints.pieces import OpenFiles
from shardproof.checkpoints.torch_files import read_embedded, read_torch
from shardproof.errors import CannotRunError

MODEL = make_model(layers=2)


def read(piece):
    full = full_of(piece)
    return torch.cat([block.clone() for _, block in read_blocks(full, full.dtype, 7)]).view(full.shape)


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_they_are_equal_to_the_same_tensors_in_safetensors(tmp_path, ranks):
    actual = save_torch_ranks(tmp_path / "a", MODEL, ranks)
    model = {f"model.{name}": tensor for name, tensor in MODEL.items()}
    compared = compare_paths(actual, save_ranks(tmp_path / "e", model, 2))
    assert compared.equal, str(compared)
    assert compared.counts["passed"] == len(MODEL)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.complex64, torch.uint8]
)
def test_every_view_of_a_storage_is_read(tmp_path, dtype):
    base = (torch.randn(6, 5) * 3).to(dtype)
    views = {
        "base": base,
        "part": base[2:4],
        "transposed": base.t(),
        "columns": base[:, 1:3],
        "steps": base[::2, ::2],
        "repeated": base[:1].expand(4, 5),
        "scalar": base[3, 3],
        "empty": base[:0],
        "parameter": torch.nn.Parameter(base, requires_grad=False),
    }
    torch.save(views, tmp_path / "v.pt")
    with OpenFiles() as files:
        found = read_torch(tmp_path / "v.pt", files)
        assert list(found) == list(views)
        for name, view in views.items():
            assert found[name].shape == tuple(view.shape)
            assert found[name].dtype == dtype
            if view.numel():
                assert torch.equal(read(found[name]), view), name


def test_nested_tensors_have_names_with_dots_and_other_values_are_left_out(tmp_path):
    torch.save({"a": {"b": [torch.ones(1), 3]}, 7: torch.ones(2), "step": 5, "none": None}, tmp_path / "n.pt")
    with OpenFiles() as files:
        assert list(read_torch(tmp_path / "n.pt", files)) == ["a.b.0", "7"]
        torch.save({"a": {"b": torch.ones(1)}, "a.b": torch.ones(1)}, tmp_path / "n.pt")
        with pytest.raises(CannotRunError, match=r"two tensors that are called a\.b"):
            read_torch(tmp_path / "n.pt", files)


class Explosive:
    def __reduce__(self):
        return (pytest.fail, ("unpickled",))


@pytest.mark.parametrize("value", [Explosive(), argparse.Namespace(a=1)], ids=["explosive", "namespace"])
def test_what_could_run_code_is_refused_and_not_run(tmp_path, value):
    torch.save({"w": torch.ones(1), "x": value}, tmp_path / "x.pt")
    with OpenFiles() as files, pytest.raises(CannotRunError, match="which could run code when it is loaded") as caught:
        read_torch(tmp_path / "x.pt", files)
    assert "weights_only=False" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_truncation_is_one_line(tmp_path):
    torch.save({"w": torch.ones(40)}, tmp_path / "w.pt")
    content = (tmp_path / "w.pt").read_bytes()
    with OpenFiles() as files:
        for size in range(4, len(content), 37):
            (tmp_path / "cut.pt").write_bytes(content[:size])
            with pytest.raises(CannotRunError) as caught:
                read_torch(tmp_path / "cut.pt", files)
            assert "\n" not in str(caught.value)


def rewrite(path, change, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path) as archive:
        records = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in change(records).items():
            archive.writestr(name, data)


@pytest.mark.parametrize(
    ("change", "compression", "words"),
    [
        (lambda r: r, zipfile.ZIP_DEFLATED, "is compressed"),
        (
            lambda r: {n: b"big" if n.endswith("byteorder") else d for n, d in r.items()},
            zipfile.ZIP_STORED,
            "byte order",
        ),
        (
            lambda r: {n: d[:8] if n.endswith("data/0") else d for n, d in r.items()},
            zipfile.ZIP_STORED,
            "needs more bytes than it has|cannot be read as a file of torch.save",
        ),
        (lambda r: {n: d for n, d in r.items() if "data" not in n}, zipfile.ZIP_STORED, "cannot be read as a file"),
        (
            lambda r: {n: pickle.dumps([[]] * 2)[:-1] if n.endswith("pkl") else d for n, d in r.items()},
            zipfile.ZIP_STORED,
            "cannot be read as a file",
        ),
    ],
    ids=["compressed", "byte order", "short record", "no records", "bad pickle"],
)
def test_a_changed_archive_is_one_line(tmp_path, change, compression, words):
    path = tmp_path / "w.pt"
    torch.save({"w": torch.ones(40)}, path)
    rewrite(path, change, compression)
    with OpenFiles() as files, pytest.raises(CannotRunError, match=words):
        read_torch(path, files)


def test_what_is_nested_without_end_is_refused(tmp_path):
    value = [torch.ones(1)]
    for _ in range(60):
        value = [value, value]
    torch.save(value, tmp_path / "bomb.pt")
    with OpenFiles() as files, pytest.raises(CannotRunError, match="nested too deep"):
        read_torch(tmp_path / "bomb.pt", files)


def test_a_sparse_tensor_is_said_to_be_unreadable(tmp_path):
    torch.save({"s": torch.eye(3).to_sparse(), "w": torch.ones(2)}, tmp_path / "s.pt")
    compared = compare_paths(tmp_path / "s.pt", save_one(tmp_path / "e", {"s": torch.eye(3), "w": torch.ones(2)}))
    rows = {row.name: row for row in compared.rows}
    assert rows["s"].unreadable
    assert "sparse or quantized" in rows["s"].reason
    assert rows["w"].status == "passed"


def test_a_tensor_within_a_file_is_read(tmp_path):
    buffer = io.BytesIO()
    torch.save(torch.arange(6.0), buffer)
    (tmp_path / "f").write_bytes(b"x" * 13 + buffer.getvalue() + b"y" * 5)
    with OpenFiles() as files:
        piece = read_embedded(tmp_path / "f", 13, len(buffer.getvalue()), files)
        assert torch.equal(read(piece), torch.arange(6.0))
        for start, length in ((12, 50), (13, 100), (10_000, 10)):
            with pytest.raises(CannotRunError, match=r"cannot be read as a file of torch\.save"):
                read_embedded(tmp_path / "f", start, length, files)
