"""Pipeline stages and tensor-parallel ranks -> the pieces of each tensor by its name in the full model."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING

from shardproof.checkpoints.layout import Held
from shardproof.checkpoints.ranks import find_own_names, pattern_of
from shardproof.errors import CannotRunError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from shardproof.checkpoints.checkpoint import Rank
    from shardproof.checkpoints.pieces import Piece

# The first number between dots is a layer's: `model.layers.3.mlp.experts.5.up`.
_LAYER = re.compile(r"^(.*?)(?<![^.])(\d+)(?![^.])(.*)$", re.DOTALL)


def collect(ranks: Sequence[Rank], layers: Sequence[Sequence[int]] | None = None) -> dict[str, Held]:
    """The pieces of each tensor, in the order of stages.

    Args:
        ranks: all ranks of a checkpoint.
        layers: of each stage, the numbers in the full model of its layers 0, 1, ...; None: found from the names. Where
            two stages have layers of the same number, each stage counts from 0; else the numbers are the model's.

    Raises:
        CannotRunError: `layers` does not fit.
    """
    stages: dict[int, list[Rank]] = defaultdict(list)
    for rank in ranks:
        stages[rank.coordinates.get("pp", 0)].append(rank)
    numbers = _number_layers({stage: stages[stage] for stage in sorted(stages)}, layers)
    pieces: dict[str, dict[int, list[Piece]]] = {}
    groups: dict[str, set[int]] = defaultdict(set)
    axis = "rank" if any("rank" in rank.coordinates for rank in ranks) else "tp"
    for stage in sorted(stages):
        held = sorted(stages[stage], key=lambda rank: tuple(sorted(rank.coordinates.items())))
        own = find_own_names(held)
        for place, rank in enumerate(held):
            number = rank.coordinates.get("tp", rank.coordinates.get("rank", 0))
            for local, piece in rank.tensors.items():
                name = rename_layer(local, numbers.get(stage))
                pieces.setdefault(name, {}).setdefault(number, []).append(piece)
                groups[name].add(number)
                groups[name] |= {
                    other.coordinates.get("tp", other.coordinates.get("rank", 0))
                    for at, other in enumerate(held)
                    if at != place and local not in other.tensors and pattern_of(local) not in own[at]
                }
    return {
        name: Held(
            pieces={number: tuple(copies) for number, copies in found.items()},
            group=tuple(sorted(groups[name])),
            axis=axis,
        )
        for name, found in pieces.items()
    }


def rename_layer(name: str, numbers: Mapping[int, int] | None) -> str:
    """The name with its layer's number in the full model."""
    found = _LAYER.match(name) if numbers is not None else None
    if found is None or numbers is None:
        return name
    local = int(found[2])
    if local not in numbers:
        raise CannotRunError(f"a stage has a layer {local}, which the layout's layers of that stage do not have")
    return f"{found[1]}{numbers[local]}{found[3]}"


def _number_layers(
    stages: Mapping[int, Sequence[Rank]], layers: Sequence[Sequence[int]] | None
) -> dict[int, dict[int, int]]:
    """For each stage: local layer number -> number in the full model. Empty where the names have the model's."""
    if layers is not None:
        if len(layers) != len(stages):
            raise CannotRunError(
                f"the layout has layers of {len(layers)} stages; the checkpoint has {len(stages)} stages"
            )
        return {stage: dict(enumerate(numbers)) for stage, numbers in zip(stages, layers, strict=True)}
    found = {
        stage: {int(match[2]) for rank in ranks for name in rank.tensors if (match := _LAYER.match(name))}
        for stage, ranks in stages.items()
    }
    everywhere = [number for numbers in found.values() for number in numbers]
    if len(everywhere) == len(set(everywhere)):
        return {}
    start, result = 0, {}
    for stage, numbers in found.items():
        result[stage] = {number: start + number for number in numbers}
        start += max(numbers, default=-1) + 1
    return result
