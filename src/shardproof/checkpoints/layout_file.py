"""A layout in JSON: how ranks hold tensors, where sizes do not show it."""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from shardproof.checkpoints.layout import How, Replicated, Split
from shardproof.errors import CannotRunError
from shardproof.tensorfiles import first_line, parse_json, printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

_LARGEST = 1 << 24
_SIDES = ("actual", "expected")


@dataclass(frozen=True, slots=True, kw_only=True)
class SideLayout:
    """What is stated of one checkpoint.

    Attributes:
        tensors: for patterns of names, how ranks hold what matches; the first that matches counts.
        layers: of each pipeline stage, the numbers of its layers in the full model; None: found from names.
    """

    tensors: Mapping[str, How] = field(default_factory=dict)
    layers: tuple[tuple[int, ...], ...] | None = None

    def find(self, name: str) -> How | None:
        """How ranks hold a tensor; None where nothing is stated."""
        return next((how for pattern, how in self.tensors.items() if fnmatchcase(name, pattern)), None)

    def check_used(self, names: Iterable[str]) -> None:
        """Refuse a pattern that no name matches: it is misspelled, or of another model."""
        names = list(names)
        for pattern in self.tensors:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise CannotRunError(f"the layout's pattern {printable(pattern)!r} matches no tensor")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What is stated of both checkpoints."""

    actual: SideLayout = field(default_factory=SideLayout)
    expected: SideLayout = field(default_factory=SideLayout)


def read_layout(path: Path) -> Layout:
    """The layout that a file states.

    Raises:
        CannotRunError: the file cannot be read, or is not as docs/compare.md says.
    """
    shown = printable(path)
    try:
        if not path.is_file() or path.stat().st_size > _LARGEST:
            raise CannotRunError(f"{shown} is no layout: needed is a JSON file; see docs/compare.md")
        document = parse_json(path.read_bytes())
    except OSError as error:
        raise CannotRunError(f"{shown} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, CannotRunError):
            raise
        raise CannotRunError(f"{shown} is no layout: {first_line(error)}") from error
    try:
        return parse_layout(document)
    except CannotRunError as error:
        raise CannotRunError(f"{shown} is no layout: {error}") from error


def parse_layout(document: Any) -> Layout:
    """The layout of a JSON document; what stands beside "actual" and "expected" is stated of both."""
    _check_object(document, {"tensors", "layers", *_SIDES}, "a layout")
    actual, expected = (
        _parse_side(document | _check_object(document.get(side, {}), {"tensors", "layers"}, f'"{side}"'), document)
        for side in _SIDES
    )
    return Layout(actual=actual, expected=expected)


def _parse_side(side: Mapping[str, Any], common: Mapping[str, Any]) -> SideLayout:
    own = _check_object(side.get("tensors", {}), None, '"tensors"')
    shared = _check_object(common.get("tensors", {}), None, '"tensors"')
    tensors = {pattern: _parse_how(entry, pattern) for pattern, entry in (own | shared | own).items()}
    layers = side.get("layers")
    return SideLayout(tensors=tensors, layers=None if layers is None else _parse_layers(layers))


def _parse_layers(layers: Any) -> tuple[tuple[int, ...], ...]:
    stages: Any = layers if isinstance(layers, list) else [None]
    if not all(isinstance(stage, list) and all(_is_count(number, 0) for number in stage) for stage in stages):
        raise CannotRunError('"layers" is a list of the numbers of layers for each stage: [[0, 1], [2, 3]]')
    numbers = [number for stage in stages for number in stage]
    if len(numbers) != len(set(numbers)):
        raise CannotRunError('"layers" names a layer twice')
    return tuple(tuple(stage) for stage in stages)


def _parse_how(entry: Any, pattern: str) -> How:
    shown = printable(pattern)
    if entry == "replicated":
        return Replicated()
    if not isinstance(entry, dict):
        raise CannotRunError(f'{shown}: give "replicated" or {{"split": DIM}}')
    _check_object(entry, {"split", "sections", "groups", "size"}, shown)
    dim: Any
    sections: Any
    dim, sections, groups, size = (entry.get(key) for key in ("split", "sections", "groups", "size"))
    if not _is_count(dim, 0):
        raise CannotRunError(f'{shown}: "split" is the dim that ranks split, 0 or more')
    if isinstance(sections, list) and sections and all(_is_count(count, 1) for count in sections):
        sections = tuple(sections)
    elif sections is not None and not _is_count(sections, 1):
        raise CannotRunError(f'{shown}: "sections" is a number of equal sections, or a list of their sizes or heads')
    for key, value in (("groups", groups), ("size", size)):
        if value is not None and not _is_count(value, 1):
            raise CannotRunError(f'{shown}: "{key}" is a whole number of 1 or more')
    return Split(dim=dim, sections=sections or 1, groups=groups or 0, size=size)


def _is_count(value: Any, least: int) -> bool:
    return type(value) is int and value >= least


def _check_object(value: Any, keys: set[str] | None, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise CannotRunError(f"{what} is a JSON object, in braces")
    unknown = sorted(set(value) - keys) if keys is not None else []
    if unknown:
        raise CannotRunError(f"{what} has {printable(unknown[0])!r}; known are {', '.join(sorted(keys or ()))}")
    return value
