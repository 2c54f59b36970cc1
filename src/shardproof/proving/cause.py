"""Causes: why a tensor is not what it should be, as a value. The judge makes it; `report/words.py` puts it in words.

To add a kind of cause:

1. a member of `CauseKind`, and of `Mend` where something known would mend it;
2. a relation in `judging/causes.py`, if it is a relation between what the ranks hold and what they should hold;
3. its line in `report/words.py`;
4. a row and its wrong twin in tests/proving/judging/test_judge.py.

Certificates hold every field that is not empty, so a new field needs its line in `report/cause_json.py` too.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fractions import Fraction

    from shardproof.proving.records import CollectiveCall
    from shardproof.worlds.early_access import EarlyAccess


class CauseKind(StrEnum):
    """What is the matter; the values are written into certificates."""

    # Relations between what the ranks hold and what they should hold.
    MISSING_ALL_REDUCE = "missing all-reduce"
    MISSING_AVERAGE = "missing average"
    UNREDUCED = "partial values used unreduced"  # the activation before the first wrong one
    REPLICAS_DIFFER = "replicas differ"
    SCALED = "scaled"
    ZERO_EVERYWHERE = "zero everywhere"
    SAME_VECTOR_OFF = "same vector off everywhere"
    PARTS_WITH_BIAS = "a bias in each partial value"
    FEW_VECTORS_OFF = "one of a few vectors off everywhere"
    ZERO_IN_PART = "zero in part"
    FEATURES_SCALED = "features scaled and shifted"
    SHARD_ORDER = "shards in another order"
    UNEXPLAINED = "no known relation"
    # The gradient norm, of sums of squares, and what is clipped by it.
    NORM_OF_PART = "norm of a part"
    NORM_COUNTS_REPLICAS = "norm counts replicas"
    NORM_MISSES_SHARD = "norm misses a shard"
    NORM_COUNTS_PARAMETER = "norm counts a parameter more than once"
    NORM_MISSES_PARAMETER = "norm misses a parameter"
    NOT_CLIPPED = "not clipped"
    # An update, beside the parameter as it was before.
    NEVER_STEPPED = "never stepped"
    STEP_SCALED = "step scaled"
    FUSED_CUT = "fused projections cut as one"
    OTHER_CONSTANTS = "constants of another part"
    # An activation or gradient beside a linear layer.
    STALE_WEIGHT = "stale weight"
    OWN_SHARD_GRADIENT = "gradient of each rank's own shard"
    OUTPUT_FOR_GRADIENT = "output in place of its gradient"
    PARTS_BESIDE_WHOLE = "partial values beside what all ranks compute"
    # A loss, by the gradient of what it is computed from.
    OWN_MAXIMUM = "a maximum of each rank's own"
    OWN_COUNT = "a mean over each rank's own count"
    OWN_MEAN = "a mean of each rank's own part"
    MORE_POSITIONS_COUNT = "counts positions that are left out on one device"
    FEWER_POSITIONS_COUNT = "leaves out positions that count on one device"
    OTHER_LABELS = "other labels"
    OWN_TOKENS = "a part of the loss of each rank's own"
    OFF_BY_CONSTANT = "off by a constant"
    # One side has what the other has not.
    MISSHAPEN = "misshapen"
    UNTIED = "not tied"  # to another parameter, as on one device
    MISSING_GRADIENT = "missing gradient"
    EXTRA_GRADIENT = "extra gradient"
    NOT_COMPUTED = "not computed"
    NOT_COVERED = "not covered"
    NOT_IN_REFERENCE = "not in the reference"
    FROZEN = "frozen"  # the parameter trains on one device
    UNFROZEN = "not frozen"  # the parameter is frozen on one device
    LOST = "lost elements"  # no rank holds them
    SAME_SHARD = "the same shard on all ranks"  # and the others on none
    SHARD_OFFSETS = "shards at wrong offsets"  # they overlap, and leave elements to nobody
    ZEROED = "zeros for elements"
    HELD_TWICE = "held twice"
    OUT_OF_PLACE = "unused elements out of place"  # where a sharding in rank order has others
    PADDING_USED = "padding used"
    BUFFER_GONE = "buffer gone"
    NO_NUMBER_HERE = "no number on the candidate's side"  # NaN or infinite there alone
    NO_NUMBER_IN_REFERENCE = "no number on the reference's side"
    # The comparison could not have told.
    DIVIDES_BY_ZERO = "divides by zero in every trial"
    NOTHING_SPLIT = "nothing split"
    NEVER_REACHED = "never reached"
    NO_GRADIENT = "no gradient"  # on either side, in any step
    CONSTANT = "constant"
    ONE_SIDED = "one side alone chosen"
    NO_NOISE = "no noise to measure"
    NO_NUMBERS_IN_REFERENCE = "no numbers in the reference"  # NaN or infinite in the user's own dtypes
    # The runs in the user's own dtypes.
    ONLY_IN_NATIVE_DTYPE = "only in the native dtype"
    LOWER_DTYPE_COLLECTIVE = "collective in a lower dtype"
    COLLECTIVES_DIVERGE = "collectives diverge"
    # Asynchronous collectives and messages.
    USED_BEFORE_WAIT = "result used before the wait"
    CHANGED_BEFORE_WAIT = "input changed before the wait"
    # Initial values.
    INITIAL_OWN = "own initial values"
    INITIAL_SPREAD = "initial values spread otherwise"
    INITIAL_MEAN = "initial values of another mean"
    INITIAL_CONSTANT = "initial values constant on one side"
    INITIAL_BY_DTENSOR = "initial values drawn by DTensor"
    INITIAL_REPEATED = "shards start alike"
    INITIAL_REPLICAS_DIFFER = "replicas start differently"
    INITIAL_MISSHAPEN = "initial shape differs"
    # Dropout masks.
    MASK_OWN = "own dropout mask"
    MASK_REPLICAS_DIFFER = "replicas drop different elements"
    MASK_SHARED = "mask shared by shards"
    MASK_SHARED_ALONG_DATA = "mask shared along data axes"
    MASK_SHARED_ON_OTHER_VALUES = "mask shared on other values"
    MASK_BY_DTENSOR = "mask drawn by DTensor"
    MASK_TOO_SMALL = "mask too small to tell"
    # A forward that is computed again in the backward.
    RECOMPUTED_MASK = "recomputed with another mask"
    RECOMPUTED_COLLECTIVE = "recomputed with another collective"


class Mend(StrEnum):
    """What would mend it; where it needs axes, they are the cause's."""

    ALL_REDUCE_GRADIENT = "all-reduce the gradient"
    ALL_REDUCE_IN_FORWARD = "all-reduce in the forward"
    ALL_REDUCE_IN_BACKWARD = "all-reduce in the backward"
    AVERAGE_GRADIENT = "average the gradient"
    GENERATOR_FOR_EACH_SHARD = "a random generator for each shard"
    CLIP_WHAT_IS_APPLIED = "clip the gradients that are applied"
    STEP_ALL = "give the optimizer all parameters"
    STEP_ALIKE = "the learning rate of one device"
    COPY_AGAIN = "copy the weight after each update"
    REDUCE_SCATTER_IN_BACKWARD = "reduce-scatter in the backward"
    GRADIENT_IN_BACKWARD = "communicate the gradient in the backward"
    STATISTICS_OF_ALL = "statistics of all rows and the own features"
    COUNT_FROM_PART = "count from where the rank's part begins"
    OWN_SHARD = "take each rank's own shard"
    OFFSETS = "begin each shard where the one before it ends"
    CUT_EACH = "cut each projection by itself"
    MAXIMUM_OVER_RANKS = "the maximum over all ranks"
    COUNT_OVER_RANKS = "divide by the count over all ranks"
    MEAN_OVER_RANKS = "the mean over all ranks' parts"
    SAME_POSITIONS = "mask and shift before splitting"
    REDUCE_FIRST = "reduce what it is computed from"
    SUM_ONCE = "sum each rank's part once"
    MORE_ELEMENTS = "a larger batch or more steps"
    RESTORE_GENERATOR = "restore the random generator for the recomputation"
    TIE = "tie the parameters again"
    WAIT = "wait for the asynchronous call"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The elements of a tensor on one rank, or in one slice along dim 0 of what that rank holds."""

    rank: int
    index: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """Why a tensor is not what it should be. Fields that its kind does not need are empty.

    Attributes:
        kind: what is the matter.
        mend: what would mend it; None where nothing is known.
        approximate: the relation holds within rounding noise; otherwise to the last digit.
        factor: of SCALED: actual = factor * expected; of STEP_SCALED the same of an update's step; of
            NORM_COUNTS_PARAMETER: how often; of OFF_BY_CONSTANT: whose logarithm it is;
            of INITIAL_SPREAD: the ranks' standard deviation over one device's, rounded.
        axes: of the mesh, over which a sum or an average is missing; of PARTS_BESIDE_WHOLE: the sum of the rest; of
            NORM_OF_PART and NORM_COUNTS_REPLICAS: over which the norm is summed, none where it is each rank's own;
            of SAME_SHARD: along which the ranks hold the same.
        dim: of SHARD_OFFSETS: that is cut; of UNEXPLAINED and ZERO_IN_PART: of which only some indices are concerned;
            None if all of all dims are.
        indices: of that dim, of what a rank holds.
        largest: of UNEXPLAINED: the largest difference in ordinary arithmetic, if it is finite; no part of an equality.
        parameter: its name, of NORM_COUNTS_PARAMETER and NORM_MISSES_PARAMETER; of UNTIED: the other one's; of
            OTHER_CONSTANTS: of the module; of OWN_TOKENS: of the activation whose gradient is the rank's own.
        ranks: of REPLICAS_DIFFER and NO_NUMBER_HERE: those that are wrong; of BUFFER_GONE: those that lack it; of
            ZEROED, HELD_TWICE and PADDING_USED: where; of NORM_MISSES_SHARD: the one left out; of SHARD_ORDER: whose
            shard each rank holds.
        shapes: of MISSHAPEN: the actual one and the expected one.
        ranges: the first and the last, of FUSED_CUT: of rows that are a projection of their own; of SHARD_OFFSETS: of
            the indices that a shard has; of OTHER_CONSTANTS: of the entries that the ranks take, of `elements`.
        parts: of NEVER_REACHED: what is zero in every run.
        operands: of ONE_SIDED: the one that was always chosen, 'the first operand of maximum', and the other: 'second'.
        elements: of MASK_TOO_SMALL: how many there are; of LOST, ZEROED, HELD_TWICE, OUT_OF_PLACE, PADDING_USED and
            ZERO_IN_PART: how many it is about; of FEW_VECTORS_OFF: how many vectors; of labels: how many positions;
            of STALE_WEIGHT: how many updates ago.
        entries: of NOTHING_SPLIT: entries of the plan that match no module.
        dtype: of the runs in the user's own dtypes, as `Native.dtype`.
        exact_collective: of COLLECTIVES_DIVERGE: the one in exact arithmetic; None where that sequence has ended.
        native_collective: the one in the user's own dtypes; None where that sequence has ended. Of
            LOWER_DTYPE_COLLECTIVE: the first one in a lower dtype than the model's.
        forward_collective: of RECOMPUTED_COLLECTIVE: the one of the forward.
        recomputed_collective: of RECOMPUTED_COLLECTIVE: the one in its place when the forward is computed again.
        early_access: of USED_BEFORE_WAIT and CHANGED_BEFORE_WAIT: the call, the access, and their lines.
    """

    kind: CauseKind
    mend: Mend | None = None
    approximate: bool = False
    factor: Fraction | None = None
    axes: tuple[str, ...] = ()
    parameter: str = ""
    dim: int | None = None
    indices: tuple[int, ...] = ()
    largest: float | None = field(default=None, compare=False)
    ranks: tuple[int, ...] = ()
    shapes: tuple[tuple[int, ...], ...] = ()
    ranges: tuple[tuple[int, ...], ...] = ()
    parts: tuple[Part, ...] = ()
    elements: int | None = None
    dtype: str = ""
    entries: tuple[str, ...] = ()
    operands: tuple[str, ...] = ()
    exact_collective: CollectiveCall | None = None
    native_collective: CollectiveCall | None = None
    forward_collective: CollectiveCall | None = None
    recomputed_collective: CollectiveCall | None = None
    early_access: EarlyAccess | None = None

    def __str__(self) -> str:
        """The kind and the parameters that it has, for logs; `report/words.py` makes sentences."""
        named = ((one.name, getattr(self, one.name)) for one in fields(self) if one.name != "kind")
        told = ", ".join(f"{name} {value}" for name, value in named if value not in (None, "", (), False))
        return f"{self.kind} ({told})" if told else str(self.kind)

    def __getitem__(self, part: slice) -> str:
        """A part of its text: `cause[:80]` fits a column."""
        return str(self)[part]
