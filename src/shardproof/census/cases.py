"""Cases: the model types of the installed transformers that have a plan, and variants of their optional features."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from shardproof.census.results import BASE
from shardproof.errors import CannotRunError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

# Fields that change what a plan has to do: parameters between split layers, ties, and what is summed or dropped.
_SWITCHES = re.compile(
    r"(use_)?(qk|query_key)_?(layer)?norm(s)?|attention_bias|mlp_bias|use_bias|qkv_bias|o_bias|bias|tie_word_embeddings"
    r"|use_sliding_window|output_router_logits|attention_sink_bias|add_.*_bias"
)
_DROPOUT = "attention_dropout"


def list_types(axes: Collection[str] = ("tp",)) -> list[str]:
    """The model types whose configuration has a plan, in transformers' order: expert-parallel if one of the axes is ep.

    Raises:
        CannotRunError: transformers is not installed.
    """
    try:
        from transformers import CONFIG_MAPPING
    except ImportError as error:
        raise CannotRunError("a census needs transformers: pip install transformers") from error
    plan = "base_model_ep_plan" if "ep" in axes else "base_model_tp_plan"
    return [kind for kind in CONFIG_MAPPING if getattr(CONFIG_MAPPING[kind], plan, None)]


def list_variants(kind: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The default, then one variant for each optional feature, turned over: its name and its settings.

    For a type without a default configuration the default alone.
    """
    from transformers import CONFIG_MAPPING

    yield BASE, {}
    try:
        defaults = CONFIG_MAPPING[kind]().to_dict()
    except Exception:  # noqa: BLE001 - the proof of the default says what is the matter
        return
    for name, value in defaults.items():
        if isinstance(value, bool) and _SWITCHES.fullmatch(name):
            yield f"{name}={str(not value).lower()}", {name: not value}
        if name == _DROPOUT and value in (0, 0.0):
            yield f"{name}=0.1", {name: 0.1}
