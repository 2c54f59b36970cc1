"""Configurations: of a model type, a config.json or a checkpoint folder; with small sizes and the user's settings."""

from __future__ import annotations

import json
import os
import re
import sys
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shardproof.errors import CannotRunError
from shardproof.frameworks.transformers.layers import resize_layers
from shardproof.frameworks.transformers.sizes import fill_sizes, reduce_sizes

if TYPE_CHECKING:
    from collections.abc import Mapping

# Grouped matrix products have no float64 kernel; the loop over experts does.
_OWN = {"experts_implementation": "eager", "attn_implementation": "eager"}
# transformers would load any other name as a kernel from the network.
_KNOWN = {"experts_implementation": ("eager", "batched_mm", "grouped_mm"), "attn_implementation": ("eager", "sdpa")}


def load_configuration(
    source: str, settings: Mapping[str, Any], *, full_size: bool = False, fill: bool = False, pad: bool = False
) -> Any:
    """Make a configuration of transformers.

    Args:
        source: a model type ('qwen3'), a path to a config.json, or to a folder that holds one.
        settings: entries to change, by name; 'text_config.num_hidden_layers' is one of a sub-configuration.
        full_size: keep the sizes. Otherwise `reduce_sizes` makes them small, before the settings.
        fill: fill what the small configuration leaves open, by `fill_sizes`.
        pad: give it a padding token, the first id.

    Raises:
        CannotRunError: transformers is not installed, or has no such model, or the configuration does not fit.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        from transformers import AutoConfig
    except ImportError as error:
        raise CannotRunError("hf: needs transformers: pip install transformers") from error
    kind, given = _read_source(source)
    for name, known in _KNOWN.items():
        if settings.get(name, known[0]) not in known:
            raise CannotRunError(f"--set {name}={settings[name]}: give {' or '.join(known)}")
    try:
        config = AutoConfig.for_model(kind, **given)
        entries = config.to_dict()
        entries.pop("model_type", None)
        if not full_size:
            entries = reduce_sizes(entries)
        if fill:
            entries = _fill(entries, config)
        if pad:
            entries = _pad(entries)
        for name, value in settings.items():
            _require_entry(config, name)
            _set_entry(entries, name, value)
        return make_configuration(kind, {**entries, **_OWN, **_top_level(settings), "use_cache": False})
    except CannotRunError:
        raise
    except Exception as error:
        first = " ".join(str(error).split(". ")[0].split())  # the rest lists every model that exists
        raise CannotRunError(f"transformers makes no configuration of {kind!r}: {first}") from error


def make_configuration(kind: str, entries: dict[str, Any]) -> Any:
    """The configuration; one that must have a padding token gets the first id, which no label is."""
    from transformers import AutoConfig

    try:
        return AutoConfig.for_model(kind, **entries)
    except Exception as error:
        padded = _pad(entries)
        if "pad_token_id" not in str(error) or padded == entries:
            raise
    return AutoConfig.for_model(kind, **padded)


def _pad(entries: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with the first id for padding, in every section that has an entry for it and no id there."""
    padded = {name: _pad(value) if isinstance(value, dict) else value for name, value in entries.items()}
    return padded | {"pad_token_id": 0} if padded.get("pad_token_id", 0) is None else padded


def _fill(entries: Mapping[str, Any], config: Any) -> dict[str, Any]:
    """Fill what is left open, in each section by its own modelling file; around sections nothing is missing."""
    from transformers import PreTrainedConfig

    sections = {name: getattr(config, name, None) for name, value in entries.items() if isinstance(value, dict)}
    inner = {
        name: _fill(entries[name], section)
        for name, section in sections.items()
        if isinstance(section, PreTrainedConfig)
    }
    return {**entries, **inner} if inner else fill_sizes(entries, read_modelling_file(config))


def read_modelling_file(config: Any) -> str:
    """The text of the modelling file beside a configuration; empty if there is none."""
    path = Path(sys.modules[type(config).__module__].__file__ or "")
    modelling = path.with_name(path.name.replace("configuration_", "modeling_"))
    return modelling.read_text(encoding="utf-8") if modelling.is_file() else ""


def _read_source(source: str) -> tuple[str, dict[str, Any]]:
    """The model type, and the entries that are given."""
    path = Path(source)
    if path.is_dir():
        path /= "config.json"
    elif path.suffix != ".json":
        return source, {}
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CannotRunError(f"{path} is no configuration that can be read: {error}") from error
    kind = given.pop("model_type", None) if isinstance(given, dict) else None
    if not isinstance(kind, str):
        raise CannotRunError(f"{path} has no model_type")
    return kind, given


def _top_level(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if "." not in name}


def _require_entry(config: Any, name: str) -> None:
    """Refuse a name that neither a configuration nor its modelling file knows; what a dictionary holds is open.

    Raises:
        CannotRunError: it is not known, as where it is misspelt: the configuration would keep it, and nothing read it.
    """
    from transformers import PreTrainedConfig

    *path, last = name.split(".")
    for part in path:
        config = getattr(config, part, None)
    if not isinstance(config, PreTrainedConfig):
        return
    known = {*config.to_dict(), *config.attribute_map, *_KNOWN}
    if (
        last in known
        or hasattr(config, last)
        or re.search(rf"\bconfig\.{re.escape(last)}\b|[\"']{re.escape(last)}[\"']", read_modelling_file(config))
    ):
        return
    near = get_close_matches(last, known, n=1)
    meant = f"; did you mean {'.'.join((*path, *near))}?" if near else ""
    raise CannotRunError(f"--set {name}: {type(config).__name__} has no such entry{meant}")


def _set_entry(entries: dict[str, Any], name: str, value: Any) -> None:
    """Set one entry; each dot leads into a sub-configuration, or into a list by its index."""
    *path, last = name.split(".")
    inner: Any = entries
    for part in path:
        inner = _enter(inner, part, name)
    if isinstance(inner, dict):
        resize_layers(inner, last, value)
        inner[last] = value
    elif isinstance(inner, list) and last.isdecimal() and int(last) < len(inner):
        inner[int(last)] = value
    else:
        raise CannotRunError(f"--set {name}: the configuration has no such entry")


def _enter(inner: Any, part: str, name: str) -> Any:
    if isinstance(inner, dict) and isinstance(inner.get(part), dict | list):
        return inner[part]
    if isinstance(inner, list) and part.isdecimal() and int(part) < len(inner):
        return inner[int(part)]
    raise CannotRunError(f"--set {name}: the configuration has no section {part!r}")
