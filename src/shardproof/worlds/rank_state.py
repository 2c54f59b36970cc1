"""Kinds of mutable Python state that a rank may change: each is compared, taken and set again by its own class.

A snapshot is shallow: containers inside a container are state of their own. Comparison is by identity, so that no code
of the user's (`__eq__` of a tensor) runs.
"""

from __future__ import annotations

import functools
import itertools
import operator
import random
import sys
from argparse import Namespace
from collections import OrderedDict, deque
from types import CellType, FunctionType, GeneratorType, MemberDescriptorType, ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any, Protocol

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_EMPTY: Any = object()


class RankState(Protocol):
    """One object whose content ranks may change, each for itself.

    Attributes:
        name: where it is found, in words.
        separable: whether its content can be taken and set again.
    """

    name: str
    separable: bool

    def take(self) -> Any:
        """A snapshot of the content."""

    def equals(self, snapshot: Any) -> bool:
        """Whether the content is that of the snapshot: the same objects in the same order."""

    def put(self, snapshot: Any) -> None:
        """Make the content that of the snapshot, in place."""

    def inner(self, snapshot: Any) -> Iterator[tuple[str, Any]]:
        """The objects of a snapshot that may have state of their own, with their names."""


def _same_values(content: Any, snapshot: dict[Any, Any]) -> bool:
    return len(content) == len(snapshot) and all(map(operator.is_, content.values(), snapshot.values()))


class Names:
    """The global names of a module, or the attributes of an instance or of a function."""

    separable = True

    def __init__(self, name: str, content: dict[str, Any]) -> None:
        self.name, self._content = name, content

    def take(self) -> dict[str, Any]:
        return dict(self._content)

    def equals(self, snapshot: dict[str, Any]) -> bool:
        return _same_values(self._content, snapshot)

    def put(self, snapshot: dict[str, Any]) -> None:
        content = self._content
        for key in [key for key in content if key not in snapshot]:
            del content[key]
        content.update(snapshot)

    def inner(self, snapshot: dict[str, Any]) -> Iterator[tuple[str, Any]]:
        return ((f"{self.name}.{key}", value) for key, value in snapshot.items())


class Attributes:
    """The attributes of a class."""

    separable = True

    def __init__(self, name: str, owner: type) -> None:
        self.name, self._owner = name, owner

    def take(self) -> dict[str, Any]:
        return dict(vars(self._owner))

    def equals(self, snapshot: dict[str, Any]) -> bool:
        return _same_values(vars(self._owner), snapshot)

    def put(self, snapshot: dict[str, Any]) -> None:
        content = vars(self._owner)
        for key in [key for key in content if key not in snapshot]:
            type.__delattr__(self._owner, key)
        for key, value in snapshot.items():
            if content.get(key, _EMPTY) is not value:
                type.__setattr__(self._owner, key, value)

    def inner(self, snapshot: dict[str, Any]) -> Iterator[tuple[str, Any]]:
        return ((f"{self.name}.{key}", value) for key, value in snapshot.items())


class Dict:
    """A dictionary; its order is part of its content. The methods are the built-in ones, whatever a subclass does."""

    separable = True

    def __init__(self, name: str, content: dict[Any, Any]) -> None:
        self.name, self._content = name, content
        self._kind: Any = OrderedDict if issubclass(type(content), OrderedDict) else dict

    def take(self) -> dict[Any, Any]:
        return dict(self._kind.items(self._content))

    def equals(self, snapshot: dict[Any, Any]) -> bool:
        kind, content = self._kind, self._content
        return (
            len(content) == len(snapshot)
            and all(map(operator.is_, kind.values(content), snapshot.values()))
            and all(map(operator.is_, kind.keys(content), snapshot))
        )

    def put(self, snapshot: dict[Any, Any]) -> None:
        self._kind.clear(self._content)
        self._kind.update(self._content, snapshot)

    def inner(self, snapshot: dict[Any, Any]) -> Iterator[tuple[str, Any]]:
        for key, value in snapshot.items():
            yield f"{self.name}[{key!r:.40}]" if isinstance(key, str | int) else self.name, value


class Sequence:
    """A list or a deque."""

    separable = True

    def __init__(self, name: str, content: Any) -> None:
        self.name, self._content = name, content

    def take(self) -> list[Any]:
        return list(self._content)

    def equals(self, snapshot: list[Any]) -> bool:
        return len(self._content) == len(snapshot) and all(map(operator.is_, self._content, snapshot))

    def put(self, snapshot: list[Any]) -> None:
        self._content.clear()
        self._content.extend(snapshot)

    def inner(self, snapshot: list[Any]) -> Iterator[tuple[str, Any]]:
        return ((f"{self.name}[{index}]", value) for index, value in enumerate(snapshot))


class Set:
    """A set."""

    separable = True

    def __init__(self, name: str, content: set[Any]) -> None:
        self.name, self._content = name, content

    def take(self) -> set[Any]:
        return set(self._content)

    def equals(self, snapshot: set[Any]) -> bool:
        return self._content == snapshot

    def put(self, snapshot: set[Any]) -> None:
        self._content.clear()
        self._content.update(snapshot)

    def inner(self, snapshot: set[Any]) -> Iterator[tuple[str, Any]]:
        return ((self.name, value) for value in snapshot)


class Cell:
    """A variable of an outer function, which an inner one may bind anew (`nonlocal`)."""

    separable = True

    def __init__(self, name: str, cell: CellType) -> None:
        self.name, self._cell = name, cell

    def take(self) -> Any:
        try:
            return self._cell.cell_contents
        except ValueError:  # not bound yet
            return _EMPTY

    def equals(self, snapshot: Any) -> bool:
        return self.take() is snapshot

    def put(self, snapshot: Any) -> None:
        if snapshot is _EMPTY:
            del self._cell.cell_contents
        else:
            self._cell.cell_contents = snapshot

    def inner(self, snapshot: Any) -> Iterator[tuple[str, Any]]:
        yield self.name, snapshot


class Queried:
    """State that has a function to read it and, if it is separable, one to set it: environment, random generators."""

    def __init__(self, name: str, read: Callable[[], Any], write: Callable[[Any], Any] | None = None) -> None:
        self.name, self._read, self._write = name, read, write
        self.separable = write is not None

    def take(self) -> Any:
        return self._read()

    def equals(self, snapshot: Any) -> bool:
        return bool(self._read() == snapshot)

    def put(self, snapshot: Any) -> None:
        assert self._write is not None
        self._write(snapshot)

    def inner(self, _snapshot: Any) -> Iterator[tuple[str, Any]]:
        return iter(())


class Cache:
    """The results that `functools.lru_cache` keeps, which cannot be read: they are computed anew in each turn."""

    separable = True

    def __init__(self, name: str, cached: Any) -> None:
        self.name, self._cached = name, cached

    def take(self) -> int:
        return 0

    def equals(self, _snapshot: int) -> bool:
        return not self._cached.cache_info().currsize

    def put(self, _snapshot: int) -> None:
        self._cached.cache_clear()

    def inner(self, _snapshot: int) -> Iterator[tuple[str, Any]]:
        return iter(())


_CACHED = type(functools.lru_cache(lambda: None))
_ITERATORS: tuple[type, ...] = (type(iter([])), type(iter(())), type(iter(range(0))))
_STATELESS = frozenset(
    {int, float, complex, bool, str, bytes, tuple, frozenset, type(None), type(len), property, ModuleType}
)


def states_of(name: str, value: Any, is_users: Callable[[Any], bool]) -> list[RankState]:
    """The states of one object.

    Args:
        name: where it was found.
        value: the object.
        is_users: whether the module of this name is the user's; other modules' instances have no state of a rank.
    """
    kind = type(value)
    if kind in _STATELESS:
        return []
    if issubclass(kind, type):
        return [Attributes(name, value)] if is_users(_module_of(value)) else []
    if issubclass(kind, FunctionType):
        return _states_of_function(name, value) if is_users(value.__module__) else []
    if issubclass(kind, staticmethod | classmethod):
        return states_of(name, value.__func__, is_users)
    if kind is CellType:
        return [Cell(name, value)]
    if kind is _CACHED:
        return [Cache(name, value)]
    if container := _container(name, value):
        return [container]
    if queried := _queried(name, value):
        return [queried]
    if is_users(_module_of(kind)) or kind in (SimpleNamespace, Namespace):
        return _states_of_instance(name, value)
    return []


def _module_of(kind: type) -> Any:
    return vars(kind).get("__module__")  # not by attribute: a metaclass may have code for it


def _container(name: str, value: Any) -> RankState | None:
    kind = type(value)  # not isinstance: it may run the object's own code
    if issubclass(kind, dict):
        return Dict(name, value)
    if issubclass(kind, list | deque):
        return Sequence(name, value)
    return Set(name, value) if issubclass(kind, set) else None


def _queried(name: str, value: Any) -> RankState | None:
    kind, numpy = type(value), sys.modules.get("numpy")
    if issubclass(kind, torch.Tensor):
        return None if value.is_inference() else Queried(name, lambda: value._version)  # noqa: SLF001
    if issubclass(kind, torch.Generator):
        return Queried(name, functools.partial(_generator_state, value), functools.partial(_set_generator, value))
    if issubclass(kind, random.Random):
        return Queried(name, value.getstate, value.setstate)
    if issubclass(kind, bytearray):
        return Queried(name, lambda: bytes(value), functools.partial(value.__setitem__, slice(None)))
    if numpy is not None and issubclass(kind, numpy.ndarray) and not value.dtype.hasobject:
        return Queried(name, value.tobytes)
    if issubclass(kind, itertools.count):
        return Queried(name, lambda: repr(value))
    if issubclass(kind, _ITERATORS):
        return Queried(name, value.__length_hint__)
    if issubclass(kind, GeneratorType):
        return Queried(name, lambda: value.gi_frame and value.gi_frame.f_lasti)
    return None


def _states_of_function(name: str, function: FunctionType) -> list[RankState]:
    found: list[RankState] = [Names(name, function.__dict__)] if function.__dict__ else []
    defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    found += [one for value in defaults if (one := _container(f"a default value of {name}", value))]
    for variable, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        if variable != "__class__":  # of `super()`
            found.append(Cell(f"{name}.{variable}", cell))
    return found


def _states_of_instance(name: str, value: Any) -> list[RankState]:
    found: list[RankState] = []
    try:
        content = object.__getattribute__(value, "__dict__")  # not getattr: it may run the object's own code
    except AttributeError:
        content = None
    if type(content) is dict:
        found.append(Names(name, content))
    for cls in type(value).__mro__:
        slots = vars(cls).get("__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            member = vars(cls).get(slot)
            if type(member) is MemberDescriptorType:
                found.append(Slot(f"{name}.{slot}", value, member))
    return found


class Slot:
    """An attribute that an instance keeps in a slot."""

    separable = True

    def __init__(self, name: str, instance: Any, member: Any) -> None:
        self.name, self._instance, self._member = name, instance, member

    def take(self) -> Any:
        try:
            return self._member.__get__(self._instance)
        except AttributeError:  # not bound yet
            return _EMPTY

    def equals(self, snapshot: Any) -> bool:
        return self.take() is snapshot

    def put(self, snapshot: Any) -> None:
        if snapshot is _EMPTY:
            self._member.__delete__(self._instance)
        else:
            self._member.__set__(self._instance, snapshot)

    def inner(self, snapshot: Any) -> Iterator[tuple[str, Any]]:
        yield self.name, snapshot


def _generator_state(generator: torch.Generator) -> bytes:
    return generator.get_state().numpy().tobytes()


def _set_generator(generator: torch.Generator, state: bytes) -> None:
    generator.set_state(torch.frombuffer(bytearray(state), dtype=torch.uint8))
