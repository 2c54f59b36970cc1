"""Reads tensors from safetensors files, one at a time; a bad file is one clear error.

Nothing here unpickles: a pickle can run any code when it is loaded.
"""

from __future__ import annotations

import json
import stat
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shardproof.errors import CannotRunError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import torch

_LENGTH_BYTES = 8
# safetensors' own limit; a file with a larger number is of another kind.
_LARGEST_HEADER = 100_000_000
_ZIP = b"PK\x03\x04"
_WANTED = "a safetensors file is needed; write one with safetensors.torch.save_file"


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorEntry:
    """One tensor as the header describes it.

    `dtype` is the format's own name, such as F32; its bytes are those from `start` to `stop` in the file.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorFile:
    """An open file: its tensors' entries in file order, and safetensors' reader."""

    path: Path
    entries: tuple[TensorEntry, ...]
    reader: Any

    def read(self, name: str) -> torch.Tensor:
        """The tensor of that name, on the CPU.

        Raises:
            CannotRunError: this version of PyTorch or safetensors does not know the dtype.
        """
        try:
            tensor: torch.Tensor = self.reader.get_tensor(name)
        except Exception as error:  # safetensors raises many kinds here; all mean that the tensor cannot be read
            raise CannotRunError(f"cannot be read from {printable(self.path)}: {first_line(error)}") from error
        return tensor


@contextmanager
def open_tensor_file(path: Path) -> Iterator[TensorFile]:
    """Open a safetensors file; `read` then reads a tensor from disk.

    Raises:
        CannotRunError: the file is missing, cannot be read, is cut short or is no safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    entries = _read_header(path)
    try:
        reader = safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise CannotRunError(f"{printable(path)} is damaged ({first_line(error)}); {_WANTED}") from error
    with reader:
        yield TensorFile(path=path, entries=entries, reader=reader)


def printable(text: object) -> str:
    """Text from outside with control characters escaped, so that it cannot steer a terminal or forge a line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(text))


def first_line(error: BaseException, *, kind: bool = False) -> str:
    """The first line of an error's text, at most 200 characters; after the name of its class, if `kind`."""
    lines = str(error).strip().splitlines()
    name = type(error).__name__
    if not lines:
        return name
    line = printable(lines[0][:200])
    return f"{name}: {line}" if kind else line


def _read_header(path: Path) -> tuple[TensorEntry, ...]:
    """The entries in the order of their bytes in the file."""
    shown = printable(path)
    try:
        if path.is_dir():
            raise CannotRunError(f"{shown} is a directory; give one safetensors file")
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # to open a pipe would wait for a writer
            raise CannotRunError(f"{shown} is no regular file; give one safetensors file")
        size = status.st_size
        with path.open("rb") as file:
            start = file.read(_LENGTH_BYTES)
            length = int.from_bytes(start, "little")
            if len(start) < _LENGTH_BYTES or length > _LARGEST_HEADER:
                raise CannotRunError(_explain_kind(shown, start, size))
            raw = file.read(length)
    except FileNotFoundError as error:
        raise CannotRunError(f"{shown} does not exist; give the path of a safetensors file") from error
    except OSError as error:
        raise CannotRunError(f"{shown} cannot be read: {error.strerror}") from error
    except ValueError as error:
        if isinstance(error, CannotRunError):
            raise
        raise CannotRunError(f"{shown} is no path: {error}") from error
    if len(raw) < length and start.startswith(_ZIP):
        raise CannotRunError(_explain_kind(shown, start, size))
    if len(raw) < length:
        raise CannotRunError(
            f"{shown} is cut short: its header should have {length} bytes and has {len(raw)}; copy the file again"
        )
    return _parse_header(shown, raw, size)


def parse_json(raw: bytes) -> Any:
    """JSON in which no object names a key twice.

    Raises:
        ValueError: it is not JSON, or a key is there twice: which of the two counts would be anyone's guess.
    """
    return json.loads(raw, object_pairs_hook=_refuse_twice)


def _refuse_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is there twice")
    return found


def _parse_header(shown: str, raw: bytes, size: int) -> tuple[TensorEntry, ...]:
    data = _LENGTH_BYTES + len(raw)
    try:
        header = parse_json(raw)
        entries = [
            TensorEntry(
                name=name,
                dtype=str(entry["dtype"]),
                shape=tuple(map(int, entry["shape"])),
                start=data + int(entry["data_offsets"][0]),
                stop=data + int(entry["data_offsets"][1]),
            )
            for name, entry in header.items()
            if name != "__metadata__"
        ]
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise CannotRunError(
            f"{shown} has a header that is not safetensors' ({first_line(error)}); {_WANTED}"
        ) from error
    needed, room = max((entry.stop for entry in entries), default=data) - data, size - data
    if needed > room:
        raise CannotRunError(
            f"{shown} is cut short: its tensors need {needed} bytes and it has {room}; copy or write the file again"
        )
    return tuple(sorted(entries, key=lambda entry: (entry.start, entry.stop)))


def _explain_kind(shown: str, start: bytes, size: int) -> str:
    """The error for a file that does not begin as safetensors files do: what it seems to be instead."""
    if size == 0:
        return f"{shown} is empty; {_WANTED}"
    if start.startswith(_ZIP):
        return f"{shown} is a zip archive, as torch.save writes (a pickle, which may run code when loaded); {_WANTED}"
    if start.startswith(b"\x80"):
        return f"{shown} is a pickle, which may run code when loaded, and is not read; {_WANTED}"
    if size < _LENGTH_BYTES:
        return f"{shown} has {size} bytes, which is too short for a safetensors file; copy or write the file again"
    return f"{shown} does not begin with the length of a safetensors header; {_WANTED}"
