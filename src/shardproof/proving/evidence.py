"""Evidence: what a page shows beside the findings of a proof, as small values. Collected only if it is asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from shardproof.proving.records import CollectiveCall, Key


class Agreement(StrEnum):
    """How an activation of the ranks agrees with one device's in the first trial."""

    EQUAL = "equal"
    PARTIAL = "partial"  # the sum over ranks is right, and what each holds is not
    DIFFERENT = "different"
    NOT_COMPARED = "not compared"


Box = tuple[tuple[tuple[int, int], ...], ...]
"""The part of a tensor that a rank holds: for each dim the indices, as ranges of a start and a stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardMap:
    """Which part of a tensor each rank holds.

    Attributes:
        shape: of the whole tensor, on one device.
        boxes: by rank; a rank that holds none of it, or no box, is left out.
    """

    shape: tuple[int, ...]
    boxes: Mapping[int, Box] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Activation:
    """An input or output of a module, or the gradient of one.

    Attributes:
        key: which.
        agreement: with one device's.
        shards: over the ranks; None where they cannot be inferred.
    """

    key: Key
    agreement: Agreement
    shards: ShardMap | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What one rank holds of a tensor beside what it should hold, as a matrix of at most `MOST_CELLS` a side.

    A cell of a larger tensor stands for a block of elements, and shows the one that differs most.

    Attributes:
        rank: whose.
        shape: of what the rank holds.
        expected: the reference's values in ordinary arithmetic, float64 [rows, columns].
        actual: the rank's.
        differs: where some element of the cell differs: in exact arithmetic, or, without it, by more than rounding.
    """

    rank: int
    shape: tuple[int, ...]
    expected: Tensor
    actual: Tensor
    differs: Tensor


MOST_CELLS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What was seen of a proof's first trial and of its runs in ordinary arithmetic.

    Attributes:
        activations: in execution order.
        parameters: the shards of each parameter, by name.
        collectives: of all ranks in the user's own dtypes, in order; what several ranks call together once.
        samples: values of the tensors that are not right, and of those that were asked for, by rank.
        left_out: how many tensors have no samples because the others fill the space.
    """

    activations: tuple[Activation, ...] = ()
    parameters: Mapping[str, ShardMap] = field(default_factory=dict)
    collectives: tuple[CollectiveCall, ...] = ()
    samples: Mapping[Key, tuple[Sample, ...]] = field(default_factory=dict)
    left_out: int = 0
