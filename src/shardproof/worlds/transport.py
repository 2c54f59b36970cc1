"""Values as bytes between our own processes: pickle, with tensors as plain bytes and functions found by their file.

PyTorch's own way puts tensors into shared-memory files, which remain when a process is killed. Only for a parent and
the processes that it started: pickle trusts its sender.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import operator
import pickle
import sys
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any

import torch

from shardproof.errors import CannotRunError

if TYPE_CHECKING:
    from torch import Tensor


def pack(value: object) -> bytes:
    """Turn a value into bytes: of a tensor its values and dense strides, not its gradient or the rest of its storage.

    Raises:
        CannotRunError: the value holds something that another process could not find or build.
    """
    buffer = io.BytesIO()
    pickler = _Pickler(buffer)
    try:
        pickler.dump(value)
    except (pickle.PicklingError, AttributeError, TypeError, RecursionError) as error:
        raise CannotRunError(
            f"cannot send a value to another process: {error}: use functions and classes at the top of a module"
        ) from error
    return pickle.dumps((pickler.files, buffer.getvalue()))


def unpack(packed: bytes) -> Any:
    """The value that `pack` turned into bytes."""
    files, content = pickle.loads(packed)  # noqa: S301 - from a process of this very run
    return _Unpickler(io.BytesIO(content), files).load()


class _Pickler(pickle.Pickler):
    """Notes the file of each module that it names, for a process that cannot import the module by its name."""

    def __init__(self, buffer: io.BytesIO) -> None:
        super().__init__(buffer, protocol=5)
        self.files: dict[str, str] = {}

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, FunctionType | type):
            self._note_module(value.__module__, value.__qualname__)
        elif type(value) in (torch.Tensor, torch.nn.Parameter):
            return _split_tensor(value.detach())
        return NotImplemented

    def _note_module(self, name: str, wanted: str) -> None:
        module = sys.modules.get(name)
        file = getattr(module, "__file__", None)
        spec = getattr(module, "__spec__", None)
        if name == "__main__" and spec is not None:
            self.files[name] = spec.name  # run by `python -m`: a module that can be imported by its name
        elif file is not None and Path(file).is_file():
            self.files[name] = str(Path(file).resolve())
        elif name == "__main__":
            raise CannotRunError(
                f"{wanted} is defined on the command line or on stdin, where another process cannot find it: "
                "put it into a module"
            )


class _Unpickler(pickle.Unpickler):
    def __init__(self, buffer: io.BytesIO, files: dict[str, str]) -> None:
        super().__init__(buffer)
        self.files = files

    def find_class(self, module: str, name: str) -> Any:
        if module == "__main__" and module in self.files:
            module = _load_main(self.files[module])
        elif module in self.files and module not in sys.modules:
            try:
                importlib.import_module(module)
            except ModuleNotFoundError:
                _load_file(module, self.files[module])
        if module in self.files and module in sys.modules:
            # Not by importing it: a file's module may have the name of a package that cannot be imported from here.
            return operator.attrgetter(name)(sys.modules[module])
        return super().find_class(module, name)


def _load_main(source: str) -> str:
    """Load the module that another process ran as `__main__`, and return its name here.

    As `multiprocessing` does: the script runs again as `__mp_main__`, so that its `__main__` part is skipped.
    """
    if not Path(source).is_file():
        importlib.import_module(source)
        return source
    if getattr(sys.modules.get("__mp_main__"), "__file__", None) != source:
        _load_file("__mp_main__", source)
    return "__mp_main__"


def _load_file(name: str, file: str) -> None:
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


def _split_tensor(tensor: Tensor) -> tuple[Any, ...]:
    dense = torch.empty_like(tensor, device="cpu", memory_format=torch.preserve_format)
    content = bytearray(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return _build_tensor, (content, tensor.dtype, tuple(tensor.shape), dense.stride())


def _build_tensor(content: bytearray, dtype: torch.dtype, shape: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    # Into memory that PyTorch has aligned: a kernel may take another path, and round otherwise, on unaligned memory.
    tensor = torch.empty_strided(shape, stride, dtype=dtype)
    if content:
        tensor.copy_(torch.frombuffer(content, dtype=dtype).view(shape))
    return tensor
