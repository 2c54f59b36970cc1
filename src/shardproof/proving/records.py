"""Records: every tensor of interest of a run on one device or rank, in execution order."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from shardproof.proving.running.collective_log import Collective


class Phase(StrEnum):
    """What a recorded tensor is, in the order in which a step computes them."""

    INITIAL = "initial parameter"  # as the user's own model has it, from a seed
    INPUT = "input"  # of a module, where it is no module's output
    OUTPUT = "output"  # of a module
    LOSS = "loss"
    OUTPUT_GRADIENT = "output gradient"  # dL/d(output of a module)
    INPUT_GRADIENT = "input gradient"  # dL/d(input of a module)
    GRADIENT = "gradient"  # of a parameter
    NORM = "gradient norm"
    CLIPPED = "clipped gradient"
    STATE = "optimizer state"
    UPDATE = "updated parameter"
    BUFFER = "buffer"
    MASK = "dropout mask"  # as each rank's generator draws it
    COLLECTIVES = "collectives"  # no tensor: where the sequences of two runs part


# Laid out as their parameter is; the others' layout has to be inferred.
OF_PARAMETERS = frozenset({Phase.GRADIENT, Phase.CLIPPED, Phase.STATE, Phase.UPDATE})
# What the gradient of an activation is recorded as.
GRADIENT_OF = {Phase.INPUT: Phase.INPUT_GRADIENT, Phase.OUTPUT: Phase.OUTPUT_GRADIENT}
# Only there to find the first place where two runs part.
ACTIVATIONS = frozenset({Phase.INPUT, Phase.OUTPUT, Phase.OUTPUT_GRADIENT, Phase.INPUT_GRADIENT})


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """Which tensor: of which step, what it is, whose, and the how-manieth of that name (a module called twice)."""

    step: int
    phase: Phase
    name: str
    call: int = 0

    def __str__(self) -> str:
        again = f" (call {self.call + 1})" if self.call else ""
        return f"step {self.step + 1}, {self.phase} {self.name}{again}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """One tensor of a run on one device or rank.

    Attributes:
        values: the rank's own plain tensor, cloned: residues in int64.
        chance: in exact arithmetic, bounds the probability that a different formula agrees; 1 where none is derived.
        void: a division by zero modulo the prime happened on the way.
    """

    values: Tensor
    chance: float = 1.0
    void: bool = False


@dataclass(slots=True, kw_only=True)
class Records:
    """What a run computed, in execution order.

    Attributes:
        running: the names of the modules whose forward is running, outermost first; kept by `watched`.
        places: the line of the program that first called a module, by its name.
    """

    capture: Callable[[Tensor], Recorded]
    step: int = 0
    tensors: dict[Key, Recorded] = field(default_factory=dict)
    missing: list[Key] = field(default_factory=list)
    running: list[str] = field(default_factory=list)
    places: dict[str, str] = field(default_factory=dict)
    collectives: list[Collective] = field(default_factory=list)

    def add(self, phase: Phase, name: str, tensor: Tensor | None, *, call: int = 0) -> Key:
        """Record a tensor under the next call of its name; None (a parameter without a gradient) as missing."""
        key = Key(self.step, phase, name, call)
        while key in self.tensors:
            key = Key(key.step, phase, name, key.call + 1)
        if tensor is None:
            self.missing.append(key)
        else:
            self.tensors[key] = self.capture(tensor)
        return key
