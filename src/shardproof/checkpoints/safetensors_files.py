"""Tensors of safetensors files: one file, or a folder of files with an index, by name."""

from __future__ import annotations

import math
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import torch

from shardproof.checkpoints.pieces import FilePiece, OpenFiles, UnreadablePiece
from shardproof.errors import CannotRunError
from shardproof.tensorfiles import first_line, open_tensor_file, parse_json, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from shardproof.checkpoints.pieces import Piece

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "C64": torch.complex64,
}
# An index of a model with a million tensors has a tenth of that.
_LARGEST_INDEX = 1 << 30


def read_safetensors(path: Path, files: OpenFiles) -> dict[str, Piece]:
    """The tensors of one file, in the order of their bytes.

    Raises:
        CannotRunError: the file is missing, damaged or of another kind.
    """
    tensors: dict[str, Piece] = {}
    with open_tensor_file(path) as file:
        for entry in file.entries:
            dtype = _DTYPES.get(entry.dtype)
            if dtype is None:
                reason = f"cannot be read from {printable(path)}: dtype {printable(entry.dtype)} is not supported"
                tensors[entry.name] = UnreadablePiece(shape=entry.shape, reason=reason)
                continue
            if entry.stop - entry.start != math.prod(entry.shape) * dtype.itemsize:
                raise CannotRunError(
                    f"{printable(path)} is damaged: {printable(entry.name)} of shape {list(entry.shape)} has "
                    f"{entry.stop - entry.start} bytes; write the file again"
                )
            tensors[entry.name] = FilePiece(path=path, offset=entry.start, shape=entry.shape, dtype=dtype, files=files)
    return tensors


def read_indexed(
    index: Path, files: OpenFiles, read_file: Callable[[Path, OpenFiles], dict[str, Piece]]
) -> dict[str, Piece]:
    """The tensors of a folder with an index, a JSON file that says which file has which tensor.

    Raises:
        CannotRunError: the index is malformed, names a file outside its folder, or a tensor that its file has not; a
            tensor stands in two files.
    """
    named = _read_index(index)
    tensors: dict[str, Piece] = {}
    listed = list(dict.fromkeys(named.values()))
    for file in listed:
        _check_inside(index, file)
    for file in listed:
        found = read_file(index.parent / file, files)
        wanted = [name for name, holder in named.items() if holder == file]
        missing = next((name for name in wanted if name not in found), None)
        if missing is not None:
            raise CannotRunError(
                f"{printable(index)} says that {printable(file)} has {printable(missing)}, and it has not; "
                "the files and the index must be of one checkpoint"
            )
        twice = next((name for name in found if name in tensors or named.get(name, file) != file), None)
        if twice is not None:
            raise CannotRunError(f"{printable(index.parent)} has {printable(twice)} in two files; remove one of them")
        tensors |= found
    return tensors


def is_inside(file: str) -> bool:
    """Whether a path that a file names stays inside the folder that it is relative to."""
    path = PurePosixPath(file)
    return not path.is_absolute() and ".." not in path.parts and bool(path.parts) and not {"\\", "\0"} & set(file)


def _check_inside(index: Path, file: str) -> None:
    if not is_inside(file):
        raise CannotRunError(
            f"{printable(index)} names {printable(file)!r}, which is not inside its folder; give a path inside it"
        )


def _read_index(index: Path) -> Mapping[str, str]:
    shown = printable(index)
    try:
        if not index.is_file() or index.stat().st_size > _LARGEST_INDEX:
            raise CannotRunError(f"{shown} is no index: needed is a JSON file of less than a gigabyte")
        document = parse_json(index.read_bytes())
    except OSError as error:
        raise CannotRunError(f"{shown} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, CannotRunError):
            raise
        raise CannotRunError(f"{shown} is no index: {first_line(error)}") from error
    named = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(named, dict) or not all(isinstance(file, str) for file in named.values()):
        raise CannotRunError(f'{shown} is no index: needed is {{"weight_map": {{NAME: FILE}}}}')
    return named
