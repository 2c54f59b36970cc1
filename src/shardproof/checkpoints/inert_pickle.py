"""The metadata of a `torch.distributed.checkpoint` folder, read as data.

PyTorch writes it as a pickle, which names classes and functions to call. Here each name of a short list stands for a
record without behaviour, made anew for every file, and any other name is an error: nothing that a file names is
imported, called or changed.
"""

from __future__ import annotations

import io
import pickle
import pickletools
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
_INSTRUCTIONS = frozenset(
    (  # noqa: SIM905 - one a line would be a page
        "PROTO FRAME STOP MARK POP POP_MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT "
        "SHORT_BINUNICODE BINUNICODE BINUNICODE8 SHORT_BINBYTES BINBYTES EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 "
        "TUPLE3 EMPTY_LIST APPEND APPENDS EMPTY_DICT SETITEM SETITEMS EMPTY_SET ADDITEMS FROZENSET BINPUT "
        "LONG_BINPUT MEMOIZE BINGET LONG_BINGET GLOBAL STACK_GLOBAL REDUCE NEWOBJ BUILD"
    ).split()
)


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
        _check_instructions(raw)
        return _Reader(io.BytesIO(raw)).load()
    except CannotRunError as error:
        raise CannotRunError(f"{shown} {error}") from error
    except Exception as error:
        raise CannotRunError(f"{shown} is no metadata of a checkpoint: {first_line(error, kind=True)}") from error


def _check_instructions(raw: bytes) -> None:
    """Refuse instructions that PyTorch does not write: some ask for gigabytes of memory by a few bytes.

    Raises:
        ValueError: there is one, or one is cut short.
    """
    for done, (instruction, argument, _) in enumerate(pickletools.genops(raw)):
        if instruction.name not in _INSTRUCTIONS:
            raise ValueError(f"it has the instruction {instruction.name}")
        if instruction.name == "LONG_BINPUT" and (argument or 0) > done:  # a table of so many entries would be made
            raise ValueError(f"it numbers a value {argument}, and has {done} instructions before")


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
