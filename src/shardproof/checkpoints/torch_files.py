"""Tensors of files that torch.save has written, found without running what is in them.

PyTorch reads the structure with `weights_only`, onto the meta device: no data is read then, and each storage says where
in the file it lies. Tensors are read from there, part by part.
"""

from __future__ import annotations

import io
import mmap
import re
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from shardproof.checkpoints.pieces import FilePiece, OpenFiles, Piece, TensorPiece, UnreadablePiece
from shardproof.errors import CannotRunError
from shardproof.tensorfiles import first_line, printable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import BinaryIO

ZIP = b"PK\x03\x04"
# Of the part of a zip file that stands before a record: its own length, then those of the name and of further fields.
_LOCAL_HEADER, _NAME_LENGTH, _EXTRA_LENGTH = 30, slice(26, 28), slice(28, 30)
_REFUSED = re.compile(r"GLOBAL ([A-Za-z_][\w.]*)")
_MOST_VALUES = 10_000_000
_MOST_NESTED = 50


def read_torch(path: Path, files: OpenFiles) -> dict[str, Piece]:
    """The tensors of one file by name: keys of nested dicts and places in lists, with dots between them.

    Values that are not tensors are left out.

    Raises:
        CannotRunError: the file is damaged, or holds something that could run code when it is loaded; two tensors get
            the same name.
    """
    try:
        with path.open("rb") as file:
            spans = _find_records(file, printable(path))
            saved = _load_structure(file, printable(path))
    except OSError as error:
        raise CannotRunError(f"{printable(path)} cannot be read: {error.strerror}") from error
    tensors: dict[str, Piece] = {}
    for name, tensor in list_tensors(saved, printable(path)):
        if name in tensors:
            raise CannotRunError(f"{printable(path)} has two tensors that are called {printable(name)}; rename one")
        tensors[name] = _find_piece(tensor, path, spans, 0, files)
    return tensors


def _load_structure(file: BinaryIO, shown: str) -> Any:
    """What torch.save was given, with tensors on the meta device."""
    file.seek(0)
    try:
        return torch.load(file, map_location="meta", weights_only=True)
    except Exception as error:
        refused = _REFUSED.search(str(error))
        if refused is not None:
            raise CannotRunError(
                f"{shown} holds {printable(refused[1])}, which could run code when it is loaded; save "
                "the tensors alone, as a dict"
            ) from error
        raise CannotRunError(f"{shown} cannot be read as a file of torch.save: {first_line(error)}") from error


def _find_piece(tensor: torch.Tensor, path: Path, spans: dict[int, int], base: int, files: OpenFiles) -> Piece:
    """Where a tensor on the meta device stands in the file.

    Args:
        tensor: as `_load_structure` has it.
        path: of the file.
        spans: for the byte at which a record begins, its length.
        base: the byte at which what torch.save has written begins in the file.
        files: through which it will be read.
    """
    shape = tuple(tensor.shape)
    if tensor.layout != torch.strided or tensor.is_quantized:
        return UnreadablePiece(shape=shape, reason=f"cannot be read from {printable(path)}: it is sparse or quantized")
    storage = tensor.untyped_storage()
    start = int(getattr(storage, "_checkpoint_offset", -1))
    span = tensor.storage_offset() + sum((n - 1) * s for n, s in zip(shape, tensor.stride(), strict=True)) + 1
    if start not in spans or max(storage.nbytes(), span * tensor.itemsize) > spans[start]:
        raise CannotRunError(f"{printable(path)} is damaged: a tensor needs more bytes than it has; save it again")
    offset = base + start + int(tensor.storage_offset()) * tensor.itemsize
    if tensor.is_contiguous():
        return FilePiece(path=path, offset=offset, shape=shape, dtype=tensor.dtype, files=files)
    return TensorPiece(tensor=_map(path, base + start, spans[start], tensor))


def _map(path: Path, start: int, length: int, like: torch.Tensor) -> torch.Tensor:
    """A tensor that is not contiguous, in memory that is the file's."""
    begin = start - start % mmap.ALLOCATIONGRANULARITY
    length -= length % like.itemsize
    with path.open("rb") as file:
        memory = mmap.mmap(file.fileno(), start + length - begin, access=mmap.ACCESS_COPY, offset=begin)
    flat = torch.frombuffer(memory, dtype=torch.uint8, offset=start - begin, count=length)
    if start % like.itemsize:
        flat = flat.clone()
    return flat.view(like.dtype).as_strided(like.shape, like.stride(), like.storage_offset())


def _find_records(file: BinaryIO, shown: str) -> dict[int, int]:
    """For the byte at which each record of a zip archive begins, its length; PyTorch does not compress them."""
    if file.read(len(ZIP)) != ZIP:
        raise CannotRunError(f"{shown} cannot be read as a file of torch.save: it does not begin as one")
    try:
        with zipfile.ZipFile(file) as archive:
            found = archive.infolist()
            if any(info.compress_type != zipfile.ZIP_STORED for info in found):
                raise CannotRunError(f"{shown} is compressed, which torch.save does not do; save it again")
            order = next((info for info in found if info.filename.endswith("/byteorder")), None)
            if order is not None and archive.read(order).decode("ascii", "replace") != sys.byteorder:
                raise CannotRunError(f"{shown} has the byte order of another machine; save it again on this one")
            spans = {}
            for info in found:
                file.seek(info.header_offset)
                header = file.read(_LOCAL_HEADER)
                name, extra = (int.from_bytes(header[part], "little") for part in (_NAME_LENGTH, _EXTRA_LENGTH))
                spans[info.header_offset + _LOCAL_HEADER + name + extra] = info.file_size
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError) as error:
        if isinstance(error, CannotRunError):
            raise
        raise CannotRunError(f"{shown} cannot be read as a file of torch.save: {first_line(error)}") from error
    return spans


def list_tensors(saved: Any, shown: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors with their names, in the order in which they were saved. What is nested too deep is refused."""
    waiting: list[tuple[tuple[str, ...], Any]] = [((), saved)]
    seen = 0
    while waiting:
        names, value = waiting.pop()
        seen += 1
        if seen > _MOST_VALUES or len(names) > _MOST_NESTED:
            raise CannotRunError(f"{shown} is nested too deep, or has too many values; save the tensors as a flat dict")
        if isinstance(value, torch.Tensor):
            yield ".".join(names), value
        elif isinstance(value, Mapping):
            waiting += [((*names, str(key)), item) for key, item in reversed(list(value.items()))]
        elif isinstance(value, list | tuple):
            waiting += [((*names, str(i)), item) for i, item in reversed(list(enumerate(value)))]


@dataclass(slots=True)
class FilePart(io.RawIOBase):
    """A part of a file as a file: what `torch.distributed.checkpoint` writes many of into one."""

    file: BinaryIO
    start: int
    length: int
    place: int = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.place = max(0, offset + (0, self.place, self.length)[whence])
        return self.place

    def readinto(self, buffer: Any) -> int:
        self.file.seek(self.start + self.place)
        data = self.file.read(max(0, min(len(buffer), self.length - self.place)))
        buffer[: len(data)] = data
        self.place += len(data)
        return len(data)


def read_embedded(path: Path, start: int, length: int, files: OpenFiles) -> Piece:
    """The one tensor that torch.save has written into a part of a file.

    Raises:
        CannotRunError: it is damaged, or is not one tensor.
    """
    shown = printable(path)
    try:
        if path.exists() and not path.is_file():  # to open a pipe would wait for a writer
            raise CannotRunError(f"{shown} cannot be read as a file of torch.save: it is no regular file")
        with path.open("rb") as file:
            part = io.BufferedReader(FilePart(file, start, length))
            spans = _find_records(part, shown)
            tensor = _load_structure(part, shown)
            if not isinstance(tensor, torch.Tensor):
                raise CannotRunError(f"{shown} has a {type(tensor).__name__} where a tensor should be; save it again")
            return _find_piece(tensor, path, spans, start, files)
    except OSError as error:
        raise CannotRunError(f"{shown} cannot be read: {error.strerror or first_line(error)}") from error
