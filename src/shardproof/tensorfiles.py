"""Reading tensors from safetensors files, one at a time. Every way in which a file can be bad is said in words.

Nothing here unpickles: a pickle runs code of its author's choice when it is loaded.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shardproof.errors import CannotRunError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import torch

_LENGTH_BYTES = 8
# safetensors' own limit; a larger number is a file of another kind.
_LARGEST_HEADER = 100_000_000
_ZIP = b"PK\x03\x04"
_WANTED = "a safetensors file is needed; write one with safetensors.torch.save_file"


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorEntry:
    """One tensor as the header describes it. `dtype` is the format's own word, such as F32."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorFile:
    """An open file: its tensors' entries in file order, and the reader behind `read`."""

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
        except Exception as error:  # safetensors raises many kinds here; all mean that this tensor cannot be had
            raise CannotRunError(f"cannot be read from {printable(self.path)}: {_one_line(error)}") from error
        return tensor


@contextmanager
def open_tensor_file(path: Path) -> Iterator[TensorFile]:
    """Open a safetensors file; its tensors are read from disk only when asked for.

    Raises:
        CannotRunError: there is no such file, or it cannot be read, is cut short or is no safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    entries = _read_header(path)
    try:
        reader = safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise CannotRunError(f"{printable(path)} is damaged ({_one_line(error)}); {_WANTED}") from error
    with reader:
        yield TensorFile(path=path, entries=entries, reader=reader)


def printable(text: object) -> str:
    """Text from outside with control characters escaped, so that it cannot steer a terminal or forge a line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(text))


def _read_header(path: Path) -> tuple[TensorEntry, ...]:
    """The entries in the order of their bytes in the file."""
    shown = printable(path)
    try:
        if path.is_dir():
            raise CannotRunError(f"{shown} is a directory; give one safetensors file")
        size = path.stat().st_size
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
    return _parse_header(shown, raw, size - _LENGTH_BYTES - length)


def _parse_header(shown: str, raw: bytes, room: int) -> tuple[TensorEntry, ...]:
    try:
        header = json.loads(raw)
        tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
        placed = [
            (
                int(entry["data_offsets"][0]),
                int(entry["data_offsets"][1]),
                TensorEntry(name=name, dtype=str(entry["dtype"]), shape=tuple(map(int, entry["shape"]))),
            )
            for name, entry in tensors.items()
        ]
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise CannotRunError(
            f"{shown} has a header that is not safetensors' ({_one_line(error)}); {_WANTED}"
        ) from error
    needed = max((end for _, end, _ in placed), default=0)
    if needed > room:
        raise CannotRunError(
            f"{shown} is cut short: its tensors need {needed} bytes and it has {room}; copy or write the file again"
        )
    placed.sort(key=lambda place: place[:2])
    return tuple(entry for _, _, entry in placed)


def _explain_kind(shown: str, start: bytes, size: int) -> str:
    """What a file that does not begin like safetensors may be."""
    if size == 0:
        return f"{shown} is empty; {_WANTED}"
    if start.startswith(_ZIP):
        return f"{shown} is a zip archive, as torch.save writes (a pickle, which may run code when loaded); {_WANTED}"
    if start.startswith(b"\x80"):
        return f"{shown} is a pickle, which may run code when loaded, and is not read; {_WANTED}"
    if size < _LENGTH_BYTES:
        return f"{shown} has {size} bytes, which is too short for a safetensors file; copy or write the file again"
    return f"{shown} does not begin with the length of a safetensors header; {_WANTED}"


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return printable(lines[0][:200]) if lines else type(error).__name__
