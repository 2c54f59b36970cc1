"""Values as bytes between our own processes: pickle, with tensors as plain bytes.

Functions and classes at the top of a module are found by its file in the other process. Others (lambdas, inner
functions, those of a script, a notebook or the command line) travel by value, by cloudpickle. Only for a parent and
the processes that it started: pickle trusts its sender.

PyTorch's own way puts tensors into shared-memory files, which remain when a process is killed.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import operator
import pickle
import sys
from pathlib import Path
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any, Final

import cloudpickle
import torch

from shardproof.errors import CannotRunError

if TYPE_CHECKING:
    from torch import Tensor

_CANNOT_PICKLE: Final = (pickle.PicklingError, AttributeError, TypeError, RecursionError, NotImplementedError)


def pack(value: object) -> bytes:
    """Turn a value into bytes: of a tensor its values and dense strides, not its gradient or the rest of its storage.

    Raises:
        CannotRunError: the value holds something that another process could not find or build.
    """
    try:
        return _pack(value, script_by_value=True)
    except _CANNOT_PICKLE as by_value:
        # A script may use something that has no value to send, a lock or a file: then the other process runs it again.
        if _main_source() is not None:
            with contextlib.suppress(*_CANNOT_PICKLE):
                return _pack(value, script_by_value=False)
        raise CannotRunError(
            f"cannot send a value to another process: {by_value}: make it where it is used, in the function that "
            "each rank runs, or put the function at the top of a module"
        ) from by_value


def _pack(value: object, *, script_by_value: bool) -> bytes:
    buffer = io.BytesIO()
    pickler = _Pickler(buffer, script_by_value=script_by_value)
    pickler.dump(value)
    return pickle.dumps((pickler.files, buffer.getvalue()))


def unpack(packed: bytes) -> Any:
    """The value that `pack` turned into bytes."""
    files, content = pickle.loads(packed)  # noqa: S301 - from a process of this very run
    return _Unpickler(io.BytesIO(content), files).load()


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # it has no types
    """Notes the file of each module that it names, for a process that cannot import the module by its name.

    Args:
        buffer: written to.
        script_by_value: functions and classes of `__main__` travel by value; otherwise that script runs again.
    """

    def __init__(self, buffer: io.BytesIO, *, script_by_value: bool) -> None:
        super().__init__(buffer, protocol=5)
        self.files: dict[str, str] = {}
        self._by_value = {"__main__"} if script_by_value else set()

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, FunctionType | type):
            if value.__module__ not in self._by_value and _is_at_the_top(value):
                self._note_module(value.__module__)
                return NotImplemented  # by its name
        elif type(value) in (torch.Tensor, torch.nn.Parameter):
            return _split_tensor(value.detach())
        elif isinstance(value, CodeType):
            _, fields = self.dispatch_table[CodeType](value)
            return _build_code, (fields, value.co_filename)
        return super().reducer_override(value)

    def _note_module(self, name: str) -> None:
        file = _main_source() if name == "__main__" else getattr(sys.modules.get(name), "__file__", None)
        if name == "__main__" and file is not None:
            self.files[name] = file
        elif file is not None and Path(file).is_file():
            self.files[name] = str(Path(file).resolve())


def _build_code(fields: tuple[Any, ...], file: str) -> CodeType:
    """Code with its file, which cloudpickle leaves out: messages and findings have the user's lines."""
    return CodeType(*fields).replace(co_filename=file)


def _is_at_the_top(value: Any) -> bool:
    """Whether a function or class is found by its name in its module."""
    try:
        return operator.attrgetter(value.__qualname__)(sys.modules[value.__module__]) is value
    except (AttributeError, KeyError):
        return False


def _main_source() -> str | None:
    """The script that runs as `__main__`, or the name of its module under `python -m`; None on the command line."""
    module = sys.modules.get("__main__")
    spec, file = getattr(module, "__spec__", None), getattr(module, "__file__", None)
    if spec is not None:
        return str(spec.name)
    return str(Path(file).resolve()) if file is not None and Path(file).is_file() else None


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
