"""Values: a checkpoint that is open for comparing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from shardproof.checkpoints.layout import Held

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shardproof.checkpoints.pieces import Piece


@dataclass(frozen=True, slots=True, kw_only=True)
class Rank:
    """What one rank has saved.

    Attributes:
        name: of its file or folder, for messages.
        coordinates: by axis ("tp", "pp", ...); empty where a checkpoint is not of several ranks.
        tensors: by name.
    """

    name: str
    coordinates: Mapping[str, int] = field(default_factory=dict)
    tensors: Mapping[str, Piece]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """All tensors of a checkpoint by name, in the order in which they are reported.

    `told` says in words of which ranks it is; "" where of one.
    """

    tensors: Mapping[str, Held]
    told: str


def checkpoint_of(tensors: Mapping[str, Piece], told: str = "") -> Checkpoint:
    """A checkpoint that is not of several ranks."""
    return Checkpoint(tensors={name: Held(pieces={0: (piece,)}) for name, piece in tensors.items()}, told=told)
