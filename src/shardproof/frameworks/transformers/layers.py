"""Layers: which layers of a configuration are kept, so that each kind of layer stays."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeGuard

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_COUNT = re.compile(
    r"num_hidden_layers|num_layers|n_layers?|depth|num_blocks|num_layers_per_stack|encoder_layers|decoder_layers"
)
# Fields that say how many layers at the front, or at the back, are of another kind than the rest.
_FRONT = re.compile(r"first_k_dense_replace|num_dense_layers|max_window_layers|moe_layer_start_index")
_BACK = re.compile(r"num_kv_shared_layers")
_PERIOD = re.compile(
    r".*(layer_period|_interval|_layer_step|sparse_step|every_n_layers|layer_group_size|window_pattern)"
)
_LAST = re.compile(r"moe_layer_end_index")
_LEAST = 2
LABELS = ("id2label", "label2id")  # of a classifier's outputs, which are no layers


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptLayers:
    """The layers of one configuration that are kept.

    Attributes:
        count: how many there were.
        kept: their indices, increasing.
    """

    count: int
    kept: tuple[int, ...]

    def pick(self, values: Sequence[Any]) -> list[Any]:
        """The entries of a list with one entry a layer that belong to the layers kept."""
        return [values[index] for index in self.kept]

    def renumber(self, indices: Sequence[int]) -> list[int]:
        """The new indices of those layers that are kept."""
        return [self.kept.index(index) for index in indices if index in self.kept]


def choose_layers(config: Mapping[str, Any]) -> KeptLayers | None:
    """Choose the first layer of each kind, and at least two; None for a configuration without layers.

    Two layers are of one kind if every per-layer list has equal entries for them, every list of layer indices holds
    both or neither, and no field that counts layers at the front or at the back tells them apart.
    """
    count = count_layers(config)
    if count is None:
        return None
    kinds: dict[tuple[Any, ...], int] = {}
    for layer in range(count):
        kinds.setdefault(describe_layer(config, layer, count), layer)
    kept = set(kinds.values())
    wanted = min(count, max(_LEAST, len(kept), *(_small_period(name, value) for name, value in config.items())))
    for layer in range(count):
        if len(kept) >= wanted:
            break
        kept.add(layer)
    return KeptLayers(count=count, kept=tuple(sorted(kept)))


def count_layers(config: Mapping[str, Any]) -> int | None:
    """How many layers a configuration has; None if it has no field that says so."""
    counts = [value for name, value in config.items() if _COUNT.fullmatch(name) and is_count(value) and value > 0]
    return counts[0] if counts else None


def resize_layers(config: dict[str, Any], name: str, count: object) -> None:
    """Where field `name` is the number of layers and becomes `count`, let per-layer lists have as many entries.

    The kinds of layers go on in their order, from the first again.
    """
    before = count_layers(config)
    if not (_COUNT.fullmatch(name) and is_count(count) and before and config.get(name) == before):
        return
    for field, value in config.items():
        if isinstance(value, list) and len(value) == before and not _is_index_list(value, before):
            config[field] = (value * count)[:count]


def reduce_layer_field(name: str, value: Any, layers: KeptLayers) -> Any:
    """The new value of a field that speaks of layers; `NotImplemented` for any other field."""
    if is_count(value):
        return _reduce_number(name, value, layers)
    if isinstance(value, list | tuple) and len(value) == layers.count and not _is_index_list(value, layers.count):
        return layers.pick(value)
    if _is_index_list(value, layers.count):
        return layers.renumber(value)
    if isinstance(value, dict) and value and all(str(key).isdecimal() for key in value):
        return {str(layers.kept.index(int(key))): entry for key, entry in value.items() if int(key) in layers.kept}
    return NotImplemented


def is_count(value: object) -> TypeGuard[int]:
    """Whether a value is an integer; True and False are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def _reduce_number(name: str, value: int, layers: KeptLayers) -> Any:
    if _COUNT.fullmatch(name):
        return len(layers.kept) if value == layers.count else min(value, _LEAST)
    if _FRONT.fullmatch(name):
        return sum(layer < value for layer in layers.kept)
    if _LAST.fullmatch(name):
        return (
            max(len(layers.kept) - 1, 0) if value >= layers.count - 1 else sum(layer < value for layer in layers.kept)
        )
    if _BACK.fullmatch(name):
        return sum(layer >= layers.count - value for layer in layers.kept)
    if _PERIOD.fullmatch(name):
        return min(value, _LEAST)
    if name.endswith("layer_offset"):
        return min(value, _LEAST - 1)
    return NotImplemented


def _small_period(name: str, value: Any) -> int:
    return min(value, _LEAST) if is_count(value) and _PERIOD.fullmatch(name) else 0


def describe_layer(config: Mapping[str, Any], layer: int, count: int) -> tuple[Any, ...]:
    """What the configuration says of one layer."""
    said: list[Any] = []
    for name, value in config.items():
        if name in LABELS:
            continue
        if _is_index_list(value, count):
            said.append(layer in value)
        elif isinstance(value, list | tuple) and len(value) == count:
            said.append(repr(value[layer]))
        elif isinstance(value, dict) and value and all(str(key).isdecimal() for key in value):
            said.append(repr({int(key): entry for key, entry in value.items()}.get(layer)))
        elif is_count(value) and _FRONT.fullmatch(name):
            said.append(layer < value)
        elif is_count(value) and _BACK.fullmatch(name):
            said.append(layer >= count - value)
    return tuple(said)


def _is_index_list(value: Any, count: int) -> bool:
    """A list of increasing layer indices; one of zeros and ones with an entry for each layer is no such list."""
    if not isinstance(value, list | tuple) or not all(map(is_count, value)) or not value:
        return False
    increasing = all(one < other for one, other in pairwise(value))
    return increasing and value[0] >= 0 and value[-1] < count
