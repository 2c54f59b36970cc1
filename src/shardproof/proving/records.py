"""Records: what the runs of a proof computed, as plain values. `running/` makes them, `judging/` reads them.

A `Recorded` tensor belongs to the `Records` of one run; the records of all runs of one device or rank are a
`SideRecord`; one device and all ranks together are `BothSides`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Collection

    from shardproof.exact import NoBound
    from shardproof.exact.algebra.chosen_sides import ChoicePlace, ChosenSides
    from shardproof.exact.algebra.number_branches import NumberBranch
    from shardproof.exact.algebra.reference_constants import TakenConstant
    from shardproof.proving.axes import Axes
    from shardproof.proving.deviation import Deviation
    from shardproof.proving.part import Part
    from shardproof.worlds.early_access import EarlyAccess


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
    SHARDING = "sharding"  # no tensor: what the ranks along an axis of the mesh share out
    COLLECTIVES = "collectives"  # no tensor: where the sequences of two runs part
    SELECTION = "selection"  # no tensor: a line of the program that takes one of two operands


# Laid out as their parameter is; the others' layout has to be inferred.
OF_PARAMETERS = frozenset({Phase.GRADIENT, Phase.CLIPPED, Phase.STATE, Phase.UPDATE})
# Of what a step computes: infinity is no result. Activations and buffers may hold masks of minus infinity.
RESULTS = OF_PARAMETERS | {Phase.LOSS, Phase.NORM}
# What the gradient of an activation is recorded as.
GRADIENT_OF = {Phase.INPUT: Phase.INPUT_GRADIENT, Phase.OUTPUT: Phase.OUTPUT_GRADIENT}
# What is drawn anew between two steps in exact arithmetic.
RENEWED = frozenset({Phase.STATE, Phase.UPDATE})
# Only there to find the first place where two runs part.
ACTIVATIONS = frozenset({Phase.INPUT, Phase.OUTPUT, Phase.OUTPUT_GRADIENT, Phase.INPUT_GRADIENT})


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """Which tensor: of which step, what it is, the name of what it belongs to, and the call count of that name."""

    step: int
    phase: Phase
    name: str
    call: int = 0

    @property
    def gradient(self) -> Key:
        """Of an activation: under what its gradient is recorded."""
        return Key(self.step, GRADIENT_OF[self.phase], self.name, self.call)

    def __str__(self) -> str:
        again = f" (call {self.call + 1})" if self.call else ""
        return f"step {self.step + 1}, {self.phase} {self.name}{again}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """One tensor of a run on one device or rank.

    Attributes:
        stored: the rank's own plain tensor, cloned; residues in int32 where they fit.
        chance: in exact arithmetic, bounds the probability that a different formula agrees; 1 where none is derived.
        no_bound: why none is derived; None where one is, and in ordinary arithmetic.
    """

    stored: Tensor
    chance: float = 1.0
    no_bound: NoBound | None = None

    @property
    def values(self) -> Tensor:
        """The tensor: residues in int64, `VOID` where an element comes of a division by zero modulo the prime.

        The trial says nothing of such an element.
        """
        return _widened(self.stored)

    def part(self, part: Part) -> Tensor:
        """A part of the tensor."""
        return _widened(part.of(self.stored))

    @property
    def shape(self) -> torch.Size:
        """Of the tensor."""
        return self.stored.shape


def _widened(stored: Tensor) -> Tensor:
    return stored.long() if stored.dtype is torch.int32 else stored


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectiveCall:
    """One collective of one rank.

    Attributes:
        step: of which training step.
        location: in which module's forward, or after which other recorded tensor: 'in up', 'after loss loss'.
        kind: which collective, and its reduction: 'AllReduce SUM'.
        ranks: that take part.
        shapes: of the rank's tensors.
        placement: of a DTensor that is redistributed, from what to what; else empty.
        dtype: of the rank's tensors: 'float32'; empty where it has none. In exact arithmetic it is always float64.
        asynchronous: the program, or DTensor, waits for it by itself. Of messages it is not known, and False.
        recomputed: it is part of a forward that is computed again in the backward.
        after_choices: in exact arithmetic, the program has read integers before that came of comparing residues: shapes
            may depend on what was chosen.
    """

    step: int
    location: str
    kind: str
    ranks: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]
    placement: str = ""
    dtype: str = field(default="", compare=False)
    asynchronous: bool = field(default=False, compare=False)
    recomputed: bool = False
    after_choices: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """What one run on one device or rank computed.

    Attributes:
        tensors: in execution order.
        missing: parameters without a gradient, in execution order.
        frozen: those of parameters that do not train (`requires_grad` is False), in execution order.
        source_lines: the line of the user's code that first called a module, by the module's name.
        squares: of gradient norms.
        tables: in exact arithmetic, by module, the tables of constants that residues were multiplied with or added to
            in its own forward of the first step (of positions, of slopes), in order, as residues.
        starts: of one device, each parameter before an update, by the key of the updated parameter.
        collectives: in the order of the calls.
        early_accesses: to what asynchronous calls had not finished with, each with its step.
        modules: the names of the modules that the device or rank holds; filled by an update.
        deviations: of one device's run that rounds, how far each tensor is from that of the run without that rounding;
            None where it is of another shape.
        unwatched_states: optimizer state of parameters that no watched model holds, by name and shape: 'exp_avg [24]'.
    """

    tensors: dict[Key, Recorded] = field(default_factory=dict)
    missing: list[Key] = field(default_factory=list)
    frozen: list[Key] = field(default_factory=list)
    source_lines: dict[str, str] = field(default_factory=dict)
    squares: dict[Key, Tensor] = field(default_factory=dict)
    tables: dict[str, list[Tensor]] = field(default_factory=dict)
    starts: dict[Key, Recorded] = field(default_factory=dict)
    collectives: list[CollectiveCall] = field(default_factory=list)
    early_accesses: list[tuple[int, EarlyAccess]] = field(default_factory=list)
    modules: set[str] = field(default_factory=set)
    deviations: dict[Key, Deviation | None] = field(default_factory=dict)
    unwatched_states: set[str] = field(default_factory=set)


class Precision(StrEnum):
    """The dtypes of a run in ordinary arithmetic. OWN and ROUNDED start from the same values: only rounding differs."""

    FLOAT64 = "float64"
    FLOAT32 = "float32"
    OWN = "own"  # the dtypes that the user's model is built in, each parameter its own, and the batch as it was given
    ROUNDED = "rounded"  # float64, from values that were rounded to those dtypes
    SHAKEN = "shaken"  # as OWN, from values that are one unit in the last place away, at random
    SHAKEN_AGAIN = "shaken again"


# Each is a sample of what rounding does to the reference. In one alone a value can come out right by luck, and with it
# all that is computed from it.
SAMPLES = (Precision.OWN, Precision.SHAKEN, Precision.SHAKEN_AGAIN)
# Of the reference's runs that round, the one without that rounding.
UNROUNDED = {Precision.FLOAT32: Precision.FLOAT64, **dict.fromkeys(SAMPLES, Precision.ROUNDED)}
# Those of which only the deviations are asked: no tensors are kept of them.
MEASURED = (Precision.FLOAT32, Precision.SHAKEN, Precision.SHAKEN_AGAIN)


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnMask:
    """The mask that one dropout of a run draws on one device or rank.

    Attributes:
        values: the input of the dropout: the rank's own plain tensor, in float64, flat.
        mask: which of its elements are kept, in the same order.
        by_dtensor: DTensor drew it for a shard; on a mesh of CPUs it draws otherwise than on GPUs.
        recomputed: it was drawn in a backward, by a forward that is computed again.
    """

    values: Tensor
    mask: Tensor
    by_dtensor: bool = False
    recomputed: bool = False


Masks = dict[Key, DrawnMask]  # in execution order

Cut = tuple[Phase, str, int]  # an activation, in every step: what it is, its name, and which call
# Where a run is cut, and of each rank's part of that activation each element's number in the full one, int64.
Cuts = Mapping[Cut, Mapping[int, Tensor]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What the first runs of a rank tell its further ones, whose values need not be all different.

    Attributes:
        filled: the parameters that the sharding fills with values of its own; see `running/own_values.py`.
        counted: by name, which elements of its parameters it counts in the norm of all gradients; empty where the
            prover does not clip.
    """

    filled: tuple[str, ...] = ()
    counted: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SideRecord:
    """What one device, or one rank, computed in all of its runs.

    Attributes:
        parameters: its own before the first step, by which its layout is found; empty where runs before have told it.
        trials: the records of the runs in exact arithmetic.
        native: the records of the runs in ordinary arithmetic; of `MEASURED` ones their deviations alone.
        failed: why the reference has no run in the user's own dtypes, if one was asked for; else empty.
        initial: its parameters as the user's model initialises them, in float64; empty if not asked for. Of the user's
            own training step, which is given its parameters, those alone that it fills itself.
        reached: of the reference, the elements of frozen parameters that would have a gradient in the first step, by
            name; empty if not asked for.
        start: of a rank, its own before the first step in the user's own dtypes; empty if that run was not asked for.
        masks: the dropout masks that its generators draw; empty if not asked for.
        taken_constants: real constants that exact arithmetic took for the reference's, of the ranks.
        branches: how comparisons of numbers that were read in exact arithmetic were decided.
        selects: in exact arithmetic something was selected by values: a routing by topk, say.
        choices: in exact arithmetic, which of two operands was chosen, by each line of the user's code.
        unmatched: the entries of the sharding's plan that match no module.
        drawn_by_dtensor: those in `initial` that hold random numbers which DTensor has drawn for a shard.
        told: to its further runs; the full state was loaded into what the sharding fills, after it, where that is in
            DTensors or whole parameters.
        scheduled: a schedule of a pipeline took the forward and the backward.
        depending: those that the sharding fills that do depend on what the sharding is given, or are others each time.
    """

    parameters: Mapping[str, Tensor]
    trials: Sequence[Records]
    native: Mapping[Precision, Records]
    failed: str = ""
    initial: Mapping[str, Tensor] = field(default_factory=dict)
    reached: Mapping[str, Tensor] = field(default_factory=dict)
    start: Mapping[str, Tensor] = field(default_factory=dict)
    masks: Masks = field(default_factory=dict)
    taken_constants: Sequence[TakenConstant] = ()
    branches: Sequence[NumberBranch] = ()
    selects: bool = False
    choices: Mapping[ChoicePlace, ChosenSides] = field(default_factory=dict)
    unmatched: tuple[str, ...] = ()
    drawn_by_dtensor: tuple[str, ...] = ()
    told: Told = field(default_factory=Told)
    depending: tuple[str, ...] = ()
    scheduled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateStep:
    """What one update of the candidate is computed from, and what it gives: full tensors by the reference's names.

    Attributes:
        gradients: as recorded last before the update; parameters without one are left out.
        clipped: they have been clipped.
        states: after the update, by the state's name.
        updates: the parameters after it.
    """

    gradients: Mapping[str, Tensor]
    clipped: bool
    states: Mapping[str, Mapping[str, Tensor]]
    updates: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateInputs:
    """What the updates of some ranks are computed from.

    Attributes:
        parameters: before the first step, full tensors by the reference's names.
        steps: each update.
        ranks: those whose replicas have these values.
    """

    parameters: Mapping[str, Tensor]
    steps: Sequence[UpdateStep]
    ranks: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """The updates of one device from the inputs of some ranks: states and updated parameters.

    Attributes:
        ranks: whose.
        own: its records in the user's own dtypes.
        errors: by key, the largest difference of what the ranks have from the update in float64.
        deviations: by key, how far the update in a precision that rounds is from that in float64: in the user's own
            dtypes, in float32 where these are float64.
    """

    ranks: tuple[int, ...]
    own: Records
    errors: Mapping[Key, float]
    deviations: Mapping[Key, Deviation | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class BothSides:
    """The same runs on one device and on all ranks, from the same full state.

    Attributes:
        reference: the one device's.
        ranks: the candidate's, in rank order.
        axes: the candidate's mesh.
        primes: of each trial.
        cuts: the activations at which the trials were cut.
        fresh: in the trials, parameters and optimizer state started each step from fresh residues.
        own_training: forward and backward are the user's own: the candidate is their training step, or their sharding
            a schedule of a pipeline. Otherwise the prover calls the model on the whole of a rank's batch.
        dtype: the user's own dtypes in words: 'bfloat16 and float32'.
        replays: the updates computed again from the candidate's own gradients and states; empty if they cannot be.
    """

    reference: SideRecord
    ranks: Sequence[SideRecord]
    axes: Axes
    primes: tuple[int, ...] = ()
    cuts: Collection[Cut] = ()
    fresh: bool = True
    own_training: bool = False
    dtype: str = ""
    replays: Sequence[Replay] = ()

    def joined(self, further: BothSides) -> BothSides:
        """With what further runs in ordinary arithmetic have recorded, and what was drawn in them."""

        def join(side: SideRecord, more: SideRecord) -> SideRecord:
            return replace(
                side,
                native={**side.native, **more.native},
                failed=more.failed or side.failed,
                initial=more.initial or side.initial,
                reached=more.reached or side.reached,
                start=side.start or more.start,
                masks=more.masks or side.masks,
                unmatched=more.unmatched or side.unmatched,
                drawn_by_dtensor=more.drawn_by_dtensor or side.drawn_by_dtensor,
                scheduled=more.scheduled or side.scheduled,
            )

        ranks = [join(side, more) for side, more in zip(self.ranks, further.ranks, strict=True)]
        return replace(self, reference=join(self.reference, further.reference), ranks=ranks)

    @property
    def in_float64(self) -> bool:
        """Whether the ranks were run in float64, and the noise of one device in float32 is known."""
        return Precision.FLOAT64 in self.ranks[0].native and Precision.FLOAT32 in self.reference.native

    def without_compared(self) -> BothSides:
        """Less the tensors of the runs in exact arithmetic, once they are compared: what else these recorded stays.

        Less those by which the layout was found, too.
        """

        def less(side: SideRecord) -> SideRecord:
            trials = [replace(records, tensors={}, tables={}, starts={}) for records in side.trials]
            return replace(side, trials=trials, parameters={})

        return replace(self, reference=less(self.reference), ranks=[less(side) for side in self.ranks])

    def without_drawn(self) -> BothSides:
        """Less the initial values and masks, once they are judged."""

        def less(side: SideRecord) -> SideRecord:
            return replace(side, initial={}, reached={}, masks={})

        return replace(self, reference=less(self.reference), ranks=[less(side) for side in self.ranks])

    def without_settled(self) -> BothSides:
        """Less the reference's tensors of parameters in the user's own dtypes, once they are measured."""

        def less(records: Records) -> Records:
            kept = {key: one for key, one in records.tensors.items() if key.phase not in OF_PARAMETERS}
            return replace(records, tensors=kept)

        native = dict(self.reference.native)
        for precision in native.keys() & {Precision.OWN, Precision.ROUNDED}:
            native[precision] = less(native[precision])
        return replace(self, reference=replace(self.reference, native=native))

    @property
    def own_precision(self) -> Precision:
        """Of the runs in the user's own dtypes; FLOAT64 if these are float64."""
        return Precision.OWN if Precision.OWN in self.reference.native else Precision.FLOAT64

    @property
    def source_lines(self) -> Mapping[str, str]:
        """The line of the user's code that first called a module on the first rank, by the module's name."""
        first = self.ranks[0]
        return next(iter([*first.trials, *first.native.values()])).source_lines
