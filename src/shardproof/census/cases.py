"""Cases: the model types of the installed transformers that have a plan, and variants of their optional features."""

from __future__ import annotations

import re
from contextlib import contextmanager
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


def list_types(axes: Collection[str] = ("tp",), *, wrappers: bool = False) -> list[str]:
    """The model types whose configuration has a plan, in transformers' order: expert-parallel if one of the axes is ep.

    Args:
        axes: of the mesh.
        wrappers: instead those without a plan of their own that have a section with one, as models of images and text
            do: transformers puts the plans of a model's parts together, each with the part's name before it.

    Raises:
        CannotRunError: transformers is not installed.
    """
    try:
        from transformers import CONFIG_MAPPING
    except ImportError as error:
        raise CannotRunError("a census needs transformers: pip install transformers") from error
    plan = "base_model_ep_plan" if "ep" in axes else "base_model_tp_plan"
    own = [kind for kind in CONFIG_MAPPING if getattr(CONFIG_MAPPING[kind], plan, None)]
    if not wrappers:
        return own
    with _quiet():
        return [kind for kind in CONFIG_MAPPING if kind not in own and _has_section(CONFIG_MAPPING[kind], plan)]


def _has_section(config_class: Any, plan: str) -> bool:
    """Whether a section of the default configuration has a plan, or a section of a section."""
    try:
        config = config_class()
    except Exception:  # noqa: BLE001 - there is no default, so there are no sections either
        return False
    return _section_has(config, plan)


def _section_has(config: Any, plan: str) -> bool:
    sections = [one for one in vars(config).values() if hasattr(one, plan)]
    return any(getattr(one, plan) or _section_has(one, plan) for one in sections)


@contextmanager
def _quiet() -> Iterator[None]:
    """Inside, transformers does not tell of the sections that it fills."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


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
