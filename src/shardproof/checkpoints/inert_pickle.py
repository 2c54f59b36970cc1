"""The metadata of a `torch.distributed.checkpoint` folder, read as data.

PyTorch writes it as a pickle, which names classes and functions to call. Here each name of a short list stands for a
record without behaviour, made anew for every file, and any other name is an error: nothing that a file names is
imported, called or changed.
"""

from __future__ import annotations

import io
import pickle
from typing import TYPE_CHECKING, Any

import torch

from shardproof.errors import CannotRunError
from shardproof.tensorfiles import first_line, printable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_METADATA = "torch.distributed.checkpoint.metadata"
_RECORDS = {
    (_METADATA, "Metadata"),
    (_METADATA, "TensorStorageMetadata"),
    (_METADATA, "BytesStorageMetadata"),
    (_METADATA, "ChunkStorageMetadata"),
    (_METADATA, "TensorProperties"),
    (_METADATA, "MetadataIndex"),
    (_METADATA, "StorageMeta"),
    (_METADATA, "_MEM_FORMAT_ENCODING"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),
    ("pathlib", "PosixPath"),
    ("pathlib", "WindowsPath"),
    ("pathlib._local", "PosixPath"),
    ("pathlib._local", "WindowsPath"),
}
_TUPLES = {("torch", "Size")}
_MAPPINGS = {("collections", "OrderedDict")}
_LARGEST = 1 << 30


def read_metadata(path: Path) -> Any:
    """What the file describes, as records: attributes are those that PyTorch's classes have.

    Raises:
        CannotRunError: the file cannot be read, names something that is not on the list, or is damaged.
    """
    shown = printable(path)
    try:
        if not path.is_file() or path.stat().st_size > _LARGEST:  # to open a pipe would wait for a writer
            raise CannotRunError(f"{shown} is no metadata of a checkpoint: needed is a file of less than a gigabyte")
        raw = path.read_bytes()
    except OSError as error:
        raise CannotRunError(f"{shown} cannot be read: {error.strerror}") from error
    try:
        return _Reader(io.BytesIO(raw)).load()
    except CannotRunError as error:
        raise CannotRunError(f"{shown} {error}") from error
    except Exception as error:
        raise CannotRunError(f"{shown} is no metadata of a checkpoint: {first_line(error, kind=True)}") from error


class _Reader(pickle.Unpickler):
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self._made: dict[tuple[str, str], Any] = {}

    def find_class(self, module: str, name: str) -> Any:
        key = module, name
        if key not in self._made:
            self._made[key] = _make(key)
        return self._made[key]


def _make(key: tuple[str, str]) -> Any:
    """A new class for a name of the list; a dtype is itself."""
    module, name = key
    kinds: list[tuple[set[tuple[str, str]], Callable[[], Any]]] = [
        (_RECORDS, lambda: type(name, (), {"__init__": _keep, "__setstate__": _set})),
        (_TUPLES, lambda: type(name, (tuple,), {"__slots__": ()})),
        (_MAPPINGS, lambda: type(name, (dict,), {})),
    ]
    for names, make in kinds:
        if key in names:
            return make()
    dtype = getattr(torch, name, None) if module == "torch" else None
    if isinstance(dtype, torch.dtype):
        return dtype
    raise CannotRunError(
        f"names {printable(module)}.{printable(name)}, which has no place in a checkpoint's metadata and could run "
        "code; save the checkpoint again with torch.distributed.checkpoint"
    )


def _keep(self: Any, *arguments: Any, **_named: Any) -> None:
    self.arguments = arguments


def _set(self: Any, state: Any) -> None:
    """A dataclass's state is a dict of its fields; that of `TensorProperties` a tuple whose first is the dtype."""
    if isinstance(state, dict):
        self.__dict__.update(state)
    elif isinstance(state, tuple) and state:
        self.dtype = state[0]
