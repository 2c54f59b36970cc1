"""Tensors of a `torch.distributed.checkpoint` folder: full tensors, each from the chunks that its metadata lists."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from shardproof.checkpoints.full import FullTensor, Placement
from shardproof.checkpoints.inert_pickle import read_metadata
from shardproof.checkpoints.safetensors_files import is_inside
from shardproof.checkpoints.torch_files import read_embedded
from shardproof.errors import CannotRunError
from shardproof.tensorfiles import printable

if TYPE_CHECKING:
    from pathlib import Path

    from shardproof.checkpoints.pieces import OpenFiles, Piece

METADATA = ".metadata"
_FILE_OF_RANK = re.compile(r"__(\d+)_\d+\.distcp")
_Numbers = tuple[int, ...]


def read_distributed(folder: Path, files: OpenFiles) -> dict[str, Piece]:
    """The tensors of a folder by name; values that are not tensors are left out, as they are pickles.

    Raises:
        CannotRunError: the metadata is damaged or hostile, or chunks of a tensor overlap or lie outside it.
    """
    shown = printable(folder / METADATA)
    metadata = read_metadata(folder / METADATA)
    try:
        tensors = {
            _text(name): _read_tensor_entry(entry)
            for name, entry in metadata.state_dict_metadata.items()
            if hasattr(entry, "chunks")
        }
        stored = _read_storage(metadata.storage_data)
    except (AttributeError, TypeError, ValueError, KeyError) as error:
        if isinstance(error, CannotRunError):
            raise
        raise CannotRunError(f"{shown} is no metadata of a checkpoint: it lacks what describes a tensor") from error
    return {name: _put_together(name, *entry, stored, folder, files) for name, entry in tensors.items()}


@dataclass(slots=True, kw_only=True)
class _Chunk:
    """A chunk, of which the place in its file is found when it is first read."""

    path: Path
    start: int
    length: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    files: OpenFiles
    found: list[Piece] = field(default_factory=list)

    def read_into(self, out: torch.Tensor, leading: tuple[int, ...], first: int) -> None:
        if not self.found:
            piece = read_embedded(self.path, self.start, self.length, self.files)
            if (piece.shape, piece.dtype) != (self.shape, self.dtype):
                raise CannotRunError(
                    f"{printable(self.path)} is not what the metadata says: a chunk of shape {list(piece.shape)} where "
                    f"{list(self.shape)} should be; both must be of one checkpoint"
                )
            self.found.append(piece)
        self.found[0].read_into(out, leading, first)


def _read_tensor_entry(entry: Any) -> tuple[torch.dtype, _Numbers, list[tuple[_Numbers, _Numbers]]]:
    dtype = entry.properties.dtype
    if not isinstance(dtype, torch.dtype):
        raise TypeError
    chunks = [(_numbers(chunk.offsets), _numbers(chunk.sizes)) for chunk in entry.chunks]
    return dtype, _numbers(entry.size), chunks


def _read_storage(storage: Any) -> dict[tuple[str, _Numbers | None], tuple[str, int, int, bool]]:
    """For the name and the offsets of a chunk: its file, first byte and length, and whether it is compressed."""
    found = {}
    for index, info in storage.items():
        offset = getattr(index, "offset", None)
        key = _text(index.fqn), None if offset is None else _numbers(offset)
        start, length = _numbers((info.offset, info.length))
        found[key] = _text(info.relative_path), start, length, bool(getattr(info, "transform_descriptors", None))
    return found


def _put_together(
    name: str,
    dtype: torch.dtype,
    size: _Numbers,
    chunks: list[tuple[_Numbers, _Numbers]],
    stored: dict[tuple[str, _Numbers | None], tuple[str, int, int, bool]],
    folder: Path,
    files: OpenFiles,
) -> FullTensor:
    shown = f"{printable(folder)}: {printable(name)}"
    placements = {}
    for offsets, sizes in chunks:
        inside = len(offsets) == len(sizes) == len(size) and all(
            o + n <= s for o, n, s in zip(offsets, sizes, size, strict=True)
        )
        if not inside or offsets in placements:
            raise CannotRunError(f"{shown} has chunks that overlap or lie outside it; save it again")
        if (name, offsets) not in stored and (name, None) not in stored:
            raise CannotRunError(f"{shown} has a chunk at {list(offsets)} that is in no file; save it again")
        file, start, length, compressed = stored.get((name, offsets)) or stored[name, None]
        if not is_inside(file):
            raise CannotRunError(f"{shown} is in {printable(file)!r}, which is not inside the folder; save it again")
        if compressed:
            raise CannotRunError(f"{shown} is compressed, and only plain files are read; save it without")
        rank = _FILE_OF_RANK.fullmatch(file)
        chunk = _Chunk(path=folder / file, start=start, length=length, shape=sizes, dtype=dtype, files=files)
        placements[offsets] = Placement(
            piece=chunk,
            holder=f"rank {rank[1]}" if rank else file,
            start=offsets,
            sizes=sizes,
            at=(0,) * len(size),
        )
    held, wanted = sum(math.prod(one.sizes) for one in placements.values()), math.prod(size)
    if held > wanted:
        raise CannotRunError(f"{shown} has chunks that overlap or lie outside it; save it again")
    return FullTensor(
        shape=size,
        dtype=dtype,
        placements=tuple(placements[offsets] for offsets in sorted(placements)),
        missing=() if held == wanted else (f"{wanted - held} of {wanted} elements",),
        how=f"in {len(chunks)} chunks" if len(chunks) > 1 else "",
    )


def _numbers(values: Any) -> _Numbers:
    numbers = tuple(values)
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise TypeError
    return numbers


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value
