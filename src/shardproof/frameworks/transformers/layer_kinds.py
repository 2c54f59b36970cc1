"""Kinds of layers: which layers of a full model are alike, and few that have every kind and every join of two."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from torch import nn

from shardproof.frameworks.transformers.layers import describe_layer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_NUMBER = re.compile(r"layer_?(idx|index|id|number|num)|index")  # of the layer itself
_PLAIN = (bool, int, float, str, type(None))


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerKind:
    """What tells one layer from another.

    Attributes:
        structure: names and classes of its modules, with names of their parameters and buffers.
        settings: names and values of plain attributes of its modules: flags, words, numbers; not the layer's number.
        shapes: of its parameters and buffers.
        said: what the configuration says of it.
    """

    structure: tuple[tuple[str, ...], ...]
    settings: tuple[tuple[str, str], ...]
    shapes: tuple[tuple[int, ...], ...]
    said: tuple[Any, ...]

    def same_layer(self, other: LayerKind, *, shapes: bool) -> bool:
        """Whether another model's layer is of this kind; without `shapes`, whatever its sizes are."""
        if self.structure != other.structure:
            return False
        if shapes:
            return self.shapes == other.shapes and self.settings == other.settings
        return self._words() == other._words()

    def _words(self) -> list[tuple[str, str]]:
        """Settings that are no sizes."""
        return [(name, "" if _is_number(value) else value) for name, value in self.settings]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def find_layers(model: nn.Module, count: int) -> nn.ModuleList | None:
    """The one list of so many layers, the outermost; None if there is none."""
    found = [one for one in model.modules() if isinstance(one, nn.ModuleList) and len(one) == count]
    return found[0] if found else None


def describe_layers(layers: nn.ModuleList, entries: Mapping[str, Any] | None) -> list[LayerKind]:
    """The kind of each layer.

    Args:
        layers: of a model, perhaps without numbers.
        entries: its configuration's; None to leave out what that says.
    """
    count = len(layers)
    return [
        _describe(layer, () if entries is None else describe_layer(entries, index, count))
        for index, layer in enumerate(layers)
    ]


def _describe(layer: nn.Module, said: tuple[Any, ...]) -> LayerKind:
    structure, settings, shapes = [], [], []
    for name, module in layer.named_modules():
        tensors = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        structure.append((name, type(module).__qualname__, *(tensor for tensor, _ in tensors)))
        shapes += [tuple(tensor.shape) for _, tensor in tensors]
        settings += [
            (f"{name}.{key}", repr(value))
            for key, value in vars(module).items()
            if isinstance(value, _PLAIN) and not key.startswith("_") and not _NUMBER.fullmatch(key)
        ]
    return LayerKind(structure=tuple(structure), settings=tuple(settings), shapes=tuple(shapes), said=said)


def list_joins(kinds: Sequence[LayerKind]) -> set[tuple[LayerKind, LayerKind]]:
    """The pairs of kinds that follow each other somewhere."""
    return set(pairwise(kinds))


def choose_kinds(kinds: Sequence[LayerKind]) -> tuple[int, ...]:
    """The indices of few layers, the first among them, that have every kind, every join, and no other join.

    A layer is added where its join with the one before it is new. Where the layer kept last is of another kind than
    that one, the layers between are kept from the last one of its kind on.
    """
    kept = [0]
    seen: set[tuple[LayerKind, LayerKind]] = set()
    for index in range(1, len(kinds)):
        if (kinds[index - 1], kinds[index]) in seen:
            continue
        kept += _lead_to(kinds, kept[-1], index - 1)
        kept.append(index)
        seen.add((kinds[index - 1], kinds[index]))
    return tuple(kept + _lead_to(kinds, kept[-1], len(kinds) - 1))


def _lead_to(kinds: Sequence[LayerKind], last: int, index: int) -> list[int]:
    """The layers to keep after `last` so that one of the kind of layer `index` stands there, by joins that exist."""
    from_there = next(one for one in range(index, last - 1, -1) if kinds[one] == kinds[last])
    return list(range(from_there + 1, index + 1))
