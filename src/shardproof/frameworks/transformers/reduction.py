"""Reduction: a configuration at its real heads, experts and ranks, with layers by kind and widths that divide alike.

Models on the meta device, which have shapes and no numbers, say what a configuration means: the full one, one with the
full widths and only the layers that are kept, and the reduced one.
"""

from __future__ import annotations

import re
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from shardproof.errors import CannotRunError
from shardproof.frameworks.transformers.conditions import check_counts, check_dims, check_layers, check_plan
from shardproof.frameworks.transformers.configuration import load_configuration, make_configuration
from shardproof.frameworks.transformers.growth import find_splits, list_shared, measure
from shardproof.frameworks.transformers.layer_kinds import choose_kinds, describe_layers, find_layers
from shardproof.frameworks.transformers.layers import KeptLayers, count_layers, is_count, reduce_layer_field
from shardproof.frameworks.transformers.models import find_model_class
from shardproof.frameworks.transformers.sizes import fit_latent_heads, fit_tokens
from shardproof.proving.reduction import ReducedSize, Reduction

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from shardproof.frameworks.transformers.layer_kinds import LayerKind
    from shardproof.frameworks.transformers.plans import OwnPlan

_WINDOW = re.compile(r"sliding_window|attention_chunk_size")
_SMALL_WINDOW = 4  # shorter than a row of tokens
_ATTENTION, _EXPERTS = "attn_implementation", "experts_implementation"  # which `to_dict` leaves out


@dataclass(frozen=True, slots=True, kw_only=True)
class Reduced:
    """A reduced configuration, the class of its model, and what was done to it."""

    config: Any
    model_class: Any
    reduction: Reduction


def reduce_configuration(
    source: str, settings: Mapping[str, Any], mesh: Mapping[str, int], plan: OwnPlan | None
) -> Reduced:
    """Reduce a configuration for a mesh, and check every condition.

    Args:
        source: a model type, a config.json or a folder that holds one.
        settings: entries of the full configuration to change, before it is reduced.
        mesh: the sizes of the mesh's axes by name.
        plan: by which the model is split; None for code of the user's.

    Raises:
        CannotRunError: a condition cannot be met; the message names it.
    """
    given = load_configuration(source, settings, full_size=True)
    entries = given.to_dict()
    kind = entries.pop("model_type")
    _require_one_stack(entries)
    model_class = find_model_class(given)
    full = _build(model_class, given)
    if plan is not None:
        plan.require_shared(full, mesh)
    kinds = _describe_full(full, entries)
    kept = KeptLayers(count=len(kinds), kept=choose_kinds(kinds))
    cut = {name: _cut_layers(name, value, kept) for name, value in entries.items()}
    cut |= {_ATTENTION: "eager"} | {name: settings[name] for name in (_ATTENTION, _EXPERTS) if name in settings}
    _name_head_size(cut)
    if _EXPERTS not in settings and _takes_batches(model_class, cut, kind):
        cut[_EXPERTS] = "batched_mm"

    def make(values: Mapping[str, int]) -> Any:
        return make_configuration(kind, _with_sizes(cut, values))

    of_full_width = _build(model_class, make({}))
    splits = find_splits(of_full_width, mesh, plan)
    values = measure(cut, of_full_width, lambda changed: _build(model_class, make(changed)), splits).choose_sizes()
    windows = {name: value for name, value in cut.items() if _WINDOW.fullmatch(name) and is_count(value)}
    values |= {name: min(value, _SMALL_WINDOW) for name, value in windows.items()}
    config = make(values)
    reduced = _build(model_class, config)
    counts = list_shared(entries)
    reduction = Reduction(
        model=model_class.__name__,
        parameters=_count_parameters(full),
        reduced_parameters=_count_parameters(reduced),
        layers=kept.count,
        kept=kept.kept,
        sizes=tuple(
            ReducedSize(name=name, full=cut[name], reduced=size) for name, size in values.items() if size != cut[name]
        ),
        counts=counts,
        conditions=(
            check_counts(counts, config, mesh),
            check_layers(kinds, kept, of_full_width, reduced),
            *check_dims(of_full_width, reduced, splits),
            *check_plan(plan, full, reduced, mesh),
        ),
    )
    return Reduced(config=config, model_class=model_class, reduction=reduction)


def _require_one_stack(entries: Mapping[str, Any]) -> None:
    inner = [name for name, value in entries.items() if isinstance(value, dict) and "model_type" in value]
    if inner or count_layers(entries) is None:
        what = f"has sections of its own ({', '.join(inner)})" if inner else "has no number of layers"
        raise CannotRunError(
            f"--reduce: condition layers: the configuration {what}; give that of one stack of layers, or leave "
            "--reduce out"
        )


def _build(model_class: Any, config: Any) -> nn.Module:
    with torch.device("meta"):
        model: nn.Module = model_class(deepcopy(config))
    return model


def _describe_full(model: nn.Module, entries: Mapping[str, Any]) -> list[LayerKind]:
    count = count_layers(entries)
    assert count is not None
    layers = find_layers(model, count)
    if layers is None:
        raise CannotRunError(
            f"--reduce: condition layers: {type(model).__name__} has no list of {count} layers, of which each kind "
            "could be kept"
        )
    return describe_layers(layers, entries)


def _cut_layers(name: str, value: Any, layers: KeptLayers) -> Any:
    found = reduce_layer_field(name, value, layers)
    return value if found is NotImplemented else found


def _takes_batches(model_class: Any, cut: Mapping[str, Any], kind: str) -> bool:
    """Whether a model can compute its experts in one product.

    A loop over hundreds of experts would take most of the time, and grouped products want rows of 16 bytes, which
    small widths are not.
    """
    try:
        _build(model_class, make_configuration(kind, {**cut, _EXPERTS: "batched_mm"}))
    except ValueError:
        return False
    return True


def _name_head_size(cut: dict[str, Any]) -> None:
    """A head's size that the configuration leaves open is the width over the heads; named, it is a field of its own."""
    heads, width = cut.get("num_attention_heads"), cut.get("hidden_size")
    if "head_dim" in cut and cut["head_dim"] is None and is_count(heads) and is_count(width):
        cut["head_dim"] = width // heads


def _with_sizes(cut: Mapping[str, Any], values: Mapping[str, int]) -> dict[str, Any]:
    entries: dict[str, Any] = {**cut, **values}
    fit_latent_heads(cut, entries)
    fit_tokens(cut, entries)
    return entries


def _count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
