"""Which modules of the user's the code of a rank can reach: those of its functions and objects, and what these import.

A process that has imported hundreds of modules (a test suite) would otherwise pay for all of them at every turn.
"""

from __future__ import annotations

import functools
import sys
from types import BuiltinFunctionType, CodeType, FunctionType, MemberDescriptorType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any, Final

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_PLAIN: Final = (str, bytes, int, float, complex, bool, type(None), torch.Tensor, BuiltinFunctionType)


def find_reachable(roots: Any, is_users: Callable[[Any], bool]) -> set[str]:
    """The names of the user's modules that are reached from objects, by references and by imports in functions.

    Args:
        roots: functions and their arguments.
        is_users: whether the module of this name is the user's.
    """
    found: set[str] = {"__main__"} if is_users("__main__") and "__main__" in sys.modules else set()
    seen: set[int] = set()
    pending: list[Any] = [roots, *(sys.modules[name] for name in found)]
    while pending:
        value = pending.pop()
        if id(value) in seen or isinstance(value, _PLAIN):
            continue
        seen.add(id(value))
        for name in _modules_of(value):
            module = sys.modules.get(name)
            if name not in found and isinstance(module, ModuleType) and is_users(name):
                found.add(name)
                pending.append(module)
        pending.extend(_parts_of(value, is_users))
    return found


def _modules_of(value: Any) -> Iterator[str]:
    """The names of the modules that a value belongs to, or imports."""
    kind = type(value)
    for one in (value, kind):
        name = one.__dict__.get("__module__") if isinstance(one, type) else None
        if isinstance(name, str):
            yield name
    if isinstance(value, ModuleType):
        yield value.__name__
    if isinstance(value, FunctionType):
        yield str(value.__module__)
        yield from _imports_of(value.__code__, value.__globals__.get("__package__") or "")


def _imports_of(code: CodeType, package: str) -> Iterator[str]:
    """What a function's code names that is a module: `import a.b` and `from .c import d` stand among its names."""
    for name in code.co_names:
        if name in sys.modules:
            yield name
        if package and f"{package}.{name}" in sys.modules:
            yield f"{package}.{name}"
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _imports_of(constant, package)


def _parts_of(value: Any, is_users: Callable[[Any], bool]) -> Iterator[Any]:
    """What a value refers to, as far as it can lead to code of the user's."""
    kind = type(value)
    if isinstance(value, ModuleType):
        if is_users(value.__name__):
            # Not by its loader, which belongs to whatever imported it (pytest's leads to every test).
            yield from [part for name, part in list(vars(value).items()) if not name.startswith("__")]
    elif isinstance(value, FunctionType):
        for cell in value.__closure__ or ():
            try:
                yield cell.cell_contents
            except ValueError:  # not bound yet
                continue
        yield from value.__defaults__ or ()
        yield from (value.__kwdefaults__ or {}).values()
    elif isinstance(value, MethodType):
        yield from (value.__func__, value.__self__)
    elif issubclass(kind, functools.partial):
        yield from (value.func, value.args, value.keywords)
    elif issubclass(kind, dict):
        yield from list(dict.values(value))
    elif issubclass(kind, list | tuple | set | frozenset):
        yield from list(value)
    elif issubclass(kind, staticmethod | classmethod):
        yield value.__func__
    elif issubclass(kind, type):
        if is_users(value.__dict__.get("__module__")):
            yield from value.__mro__
            yield from list(vars(value).values())
    else:
        yield kind
        yield from _attributes_of(value)


def _attributes_of(value: Any) -> Iterator[Any]:
    try:
        content = object.__getattribute__(value, "__dict__")  # not getattr: it may run the object's own code
    except AttributeError:
        content = None
    if type(content) is dict:
        yield from list(content.values())
    for cls in type(value).__mro__:
        slots = vars(cls).get("__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            member = vars(cls).get(slot)
            if isinstance(member, MemberDescriptorType):
                try:
                    yield member.__get__(value)
                except AttributeError:
                    continue
