"""Conditions: what has to hold of a reduced model beside the full one, each checked on models on the meta device.

A condition that does not hold is an error, which names it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from shardproof.errors import CannotRunError
from shardproof.frameworks.transformers.dividing import find_other_split
from shardproof.frameworks.transformers.growth import list_dims, name_place
from shardproof.frameworks.transformers.layer_kinds import describe_layers, find_layers, list_joins
from shardproof.proving.reduction import Condition

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import nn

    from shardproof.frameworks.transformers.dividing import Splits
    from shardproof.frameworks.transformers.layer_kinds import LayerKind
    from shardproof.frameworks.transformers.layers import KeptLayers
    from shardproof.frameworks.transformers.plans import OwnPlan

_INDEX = re.compile(r"\d+")


def check_counts(counts: Mapping[str, int], config: Any, mesh: Mapping[str, int]) -> Condition:
    """Heads and experts are as many as at full size.

    Raises:
        CannotRunError: they are not.
    """
    for name, value in counts.items():
        found = getattr(config, name, value)
        if found != value:
            raise CannotRunError(f"--reduce: condition counts: {name} is {value}, and {found} once it is reduced")
    named = ", ".join(f"{name} {value}" for name, value in counts.items())
    axes = " x ".join(f"{name} {size}" for name, size in mesh.items())
    return Condition(
        name="counts",
        meaning=f"heads, experts and ranks are as many as at full size: {named}; mesh {axes}",
        checked="in the reduced model's configuration",
    )


def check_layers(kinds: Sequence[LayerKind], kept: KeptLayers, full: nn.Module, reduced: nn.Module) -> Condition:
    """The layers of two models are of the kinds of those that were kept, in their order.

    Args:
        kinds: of every layer of the full model.
        kept: which of them are kept.
        full: a model with these layers alone, of full widths.
        reduced: one of reduced widths.

    Raises:
        CannotRunError: the configuration cannot say so.
    """
    for model, shapes in ((full, True), (reduced, False)):
        layers = find_layers(model, len(kept.kept))
        found = [] if layers is None else describe_layers(layers, None)
        for position, index in enumerate(kept.kept):
            if not found or not kinds[index].same_layer(found[position], shapes=shapes):
                raise CannotRunError(
                    f"--reduce: condition layers: layer {index} of {kept.count} is of a kind that the configuration "
                    f"cannot give layer {position} of {len(kept.kept)}"
                )
    count, joins = len(set(kinds)), len(list_joins(kinds))
    return Condition(
        name="layers",
        meaning=(
            f"of {kept.count} layers the {count} kind{'s' * (count > 1)} and the {joins} way{'s' * (joins != 1)} in "
            f"which one follows another are there, and no other way: layers {', '.join(map(str, kept.kept))}"
        ),
        checked="modules, shapes and settings of every layer of the full model, and what the configuration says of it",
    )


def check_dims(full: nn.Module, reduced: nn.Module, splits: Mapping[tuple[str, int], Splits]) -> tuple[Condition, ...]:
    """Every dim of the parameters divides as at full size, and dims that differ there differ.

    Raises:
        CannotRunError: one does not; two do not.
    """
    before, after = list_dims(full), list_dims(reduced)
    if before.keys() != after.keys():
        odd = min(name for name, _ in before.keys() ^ after.keys())
        raise CannotRunError(
            f"--reduce: condition layers: {odd} is not a parameter of both the full and the reduced model"
        )
    owners: dict[int, tuple[str, int]] = {}
    for place, size in before.items():
        split = find_other_split(size, after[place], splits[place])
        if split is not None:
            raise CannotRunError(
                f"--reduce: condition division: {name_place(place)} is {size} at full size and {after[place]} reduced, "
                f"which {' x '.join(map(str, split))} ranks do not split alike"
            )
        other = owners.setdefault(after[place], place)
        if before[other] != size:
            raise CannotRunError(
                f"--reduce: condition roles: {name_place(place)} and {name_place(other)} differ at full size and are "
                f"both {after[place]} reduced"
            )
    used = sorted({split for some in splits.values() for split in some})
    named = ", ".join(" x ".join(map(str, split)) for split in used)
    smaller = sum(size != after[place] for place, size in before.items())
    return (
        Condition(
            name="division",
            meaning=(
                f"every dim of a parameter divides among its ranks ({named}) as at full size: the same remainder, as "
                "many full, shorter and empty shards, with several rows where they had several"
            ),
            checked=f"{len(before)} dims of parameters of the full and the reduced model, {smaller} of them smaller",
        ),
        Condition(
            name="roles",
            meaning="dims that differ at full size differ, and none is by chance the number of heads or experts",
            checked=f"{len(before)} dims against each other",
        ),
    )


def check_plan(
    plan: OwnPlan | None, full: nn.Module, reduced: nn.Module, mesh: Mapping[str, int]
) -> tuple[Condition, ...]:
    """The plan has the same style for every parameter and module of the full model; nothing for code of the user's.

    Raises:
        CannotRunError: it has not, or does not fit the full model.
    """
    if plan is None or not {"tp", "ep"} & mesh.keys():
        return ()
    before, after = (_list_styles(plan.resolve(model, mesh)) for model in (full, reduced))
    if before != after:
        odd, style = min(before ^ after)
        raise CannotRunError(
            f"--reduce: condition plan: {odd}={style} is an entry of only one of the plans of the full and the reduced "
            "model"
        )
    return (
        Condition(
            name="plan",
            meaning="every module and parameter of the full model has the style that it has in the reduced model",
            checked=f"{len(before)} entries, layers by `*`, of the plans that transformers makes for both models",
        ),
    )


def _list_styles(plan: Mapping[str, str]) -> set[tuple[str, str]]:
    return {(_INDEX.sub("*", name), style) for name, style in plan.items()}
