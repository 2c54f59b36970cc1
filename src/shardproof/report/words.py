"""The words of causes: one line for each kind, and one for each thing that would mend it. Nothing reads them back.

A sentence is a template; `_parameters` has the words for the fields of a cause that it can name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shardproof.exact.algebra.no_bound import NoBound
from shardproof.proving.cause import CauseKind, Mend

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from fractions import Fraction

    from shardproof.proving.cause import Cause, Part
    from shardproof.proving.findings import Finding, Unbounded
    from shardproof.proving.records import CollectiveCall
    from shardproof.worlds.early_access import EarlyAccess

_SENTENCES: Mapping[CauseKind, str] = {
    CauseKind.MISSING_ALL_REDUCE: (
        "ranks hold partial values whose sum{over} is {about}right: an all-reduce is missing"
    ),
    CauseKind.MISSING_AVERAGE: "ranks hold values of their own whose mean{over} is {about}right: an average is missing",
    CauseKind.UNREDUCED: (
        "ranks hold partial values whose sum{over} is {about}right, and what is computed from them is wrong"
    ),
    CauseKind.REPLICAS_DIFFER: "replicas differ: {ranks_are} wrong, the others {about}right",
    CauseKind.SCALED: "{about}{size}",
    CauseKind.ZERO_EVERYWHERE: "{about}zero everywhere",
    CauseKind.SAME_VECTOR_OFF: (
        "off by {about}the same vector at every position: a bias is added more than once, not at all, "
        "or in another order, or another one is"
    ),
    CauseKind.PARTS_WITH_BIAS: (
        "ranks hold partial values whose sum{over} is {about}right but for the same vector at every position: "
        "each rank adds the bias before they are summed up, or they never are"
    ),
    CauseKind.FEW_VECTORS_OFF: (
        "off by {about}one of {elements} vectors at every position: what a rank looks up in place of other ranks' rows "
        "is not masked"
    ),
    CauseKind.ZERO_IN_PART: "{places} on {rank_list}: {about}zero there, and not on one device",
    CauseKind.FEATURES_SCALED: (
        "each feature is scaled and shifted by numbers of its own, the same at every position: "
        "other statistics, or another scale, than on one device"
    ),
    CauseKind.SHARD_ORDER: "shards in another order: ranks hold {about}the shards of {ranks}",
    CauseKind.UNEXPLAINED: "{places} on {rank_list}{largest}; no known relation explains it",
    CauseKind.NORM_OF_PART: "{norm_of}: the squares are not summed over all ranks",
    CauseKind.NORM_COUNTS_REPLICAS: "the norm counts what several ranks hold once for each of them",
    CauseKind.NORM_MISSES_SHARD: "the norm leaves out what only {rank_list} holds",
    CauseKind.NORM_COUNTS_PARAMETER: "the norm counts {parameter} {factor} times",
    CauseKind.NORM_MISSES_PARAMETER: "the norm leaves out {parameter}",
    CauseKind.NOT_CLIPPED: "the gradient is applied as it was before clipping",
    CauseKind.NEVER_STEPPED: "{about}as it was before the step: the optimizer does not update it",
    CauseKind.STEP_SCALED: "the step from its values before is {about}{size}",
    CauseKind.FUSED_CUT: (
        "rows {ranges} of {parameter} are projections of their own, and it is cut as one: "
        "{lacking} rows of the features computed there"
    ),
    CauseKind.OTHER_CONSTANTS: (
        "{parameter} computes with entries {ranges} of a table of constants (of positions, heads or features) whose "
        "{elements} entries all belong there"
    ),
    CauseKind.STALE_WEIGHT: "computed with {parameter} of {elements} updates before",
    CauseKind.OWN_SHARD_GRADIENT: (
        "each rank's own part of the gradient that its own shard of {parameter} gives: nobody sums the ranks' gradients"
    ),
    CauseKind.OUTPUT_FOR_GRADIENT: (
        "what the backward through {parameter} gives of the layer's output, which stands in the place of its gradient"
    ),
    CauseKind.PARTS_BESIDE_WHOLE: (
        "ranks hold partial values, each with all of what comes through {parameter}, which every rank computes alike: "
        "counted once, their sum{over} is right"
    ),
    CauseKind.OWN_MAXIMUM: (
        "each rank subtracts the maximum of its own logits, and the ranks' exponentials are added up as they are"
    ),
    CauseKind.OWN_COUNT: (
        "each rank takes the mean over its own count, and the means are averaged: its gradient is off by a factor of "
        "each rank's own, whose inverses have the mean 1"
    ),
    CauseKind.OWN_MEAN: (
        "each rank has a value of its own, whose mean, weighted by the sizes of the ranks' parts, is right: "
        "each takes a mean over its own part"
    ),
    CauseKind.MORE_POSITIONS_COUNT: "{elements} positions that count here are left out on one device",
    CauseKind.FEWER_POSITIONS_COUNT: "{elements} positions that count on one device are left out here",
    CauseKind.OTHER_LABELS: "{elements} positions have another label than on one device, or one on one side alone",
    CauseKind.OWN_TOKENS: (
        "a part of it is computed from each rank's own tokens: the gradient of {parameter} is the rank's own, and its "
        "mean{over} is right"
    ),
    CauseKind.OFF_BY_CONSTANT: "off by a constant{constant}: every gradient of the step is right",
    CauseKind.MISSHAPEN: "of shape {actual} instead of {expected}",
    CauseKind.UNTIED: "tied to {parameter} on one device, and a parameter of its own here",
    CauseKind.MISSING_GRADIENT: "the parameter has a gradient on one device and none here",
    CauseKind.EXTRA_GRADIENT: "the parameter has a gradient here and none on one device",
    CauseKind.NOT_COMPUTED: "the candidate does not compute it",
    CauseKind.NOT_COVERED: "no rank of the candidate computes all of it",
    CauseKind.NOT_IN_REFERENCE: "the reference has no such tensor",
    CauseKind.NO_NUMBER_HERE: "NaN or infinity on {rank_list}, and a number on one device",
    CauseKind.NO_NUMBER_IN_REFERENCE: "NaN or infinity on one device, and a number on {rank_list}",
    CauseKind.DIVIDES_BY_ZERO: (
        "both sides divide by zero in every trial: replace the divisor before the division, not the quotient after it"
    ),
    CauseKind.FROZEN: "frozen here (requires_grad is False), and it trains on one device",
    CauseKind.UNFROZEN: "it trains here, and is frozen on one device (requires_grad is False)",
    CauseKind.LOST: "no rank holds {elements} of its elements: a zero, or nothing, is in their place",
    CauseKind.SAME_SHARD: "all ranks{along} hold the same shard, and nobody holds the other {elements} elements",
    CauseKind.SHARD_OFFSETS: (
        "the shards of dim {dim} have indices {ranges}: they overlap, and nobody holds {elements} elements"
    ),
    CauseKind.ZEROED: "zeros in place of {elements} elements before the first step, on {rank_list}",
    CauseKind.OUT_OF_PLACE: (
        "{elements} of its elements are in another order on {rank_list}: nothing in the batch reaches them, and the "
        "others are where a sharding in rank order has them"
    ),
    CauseKind.HELD_TWICE: "{elements} of its elements are held twice: shards overlap on {rank_list}",
    CauseKind.PADDING_USED: (
        "zeros of padding do not stay unused: {elements} of them on {rank_list} have a gradient or have been updated"
    ),
    CauseKind.BUFFER_GONE: "one device has the buffer, and rank {ranks} has none of that name",
    CauseKind.NO_GRADIENT: "no gradient on either side: nothing in the batch reaches it",
    CauseKind.NOTHING_SPLIT: "nothing is split{over}: every rank holds all of it, and computes all of it{unmatched}",
    CauseKind.NEVER_REACHED: "zero in every run on {parts}: nothing in the batch reaches it",
    CauseKind.CONSTANT: "the same numbers whatever the parameters and inputs are: a wrong way to them would not show",
    CauseKind.ONE_SIDED: (
        "in every row of every trial {chosen} was chosen: what is computed where the {other} one is was not compared, "
        "an online softmax that does not rescale, say"
    ),
    CauseKind.NO_NOISE: "the reference has no rounding noise to measure",
    CauseKind.NO_NUMBERS_IN_REFERENCE: (
        "in {dtype} one device computes NaN or infinity here, so that no numbers could be compared with it"
    ),
    CauseKind.LOWER_DTYPE_COLLECTIVE: (
        "proved in exact arithmetic, and not what {dtype} computes: {native_dtype} is communicated, by {native}"
    ),
    CauseKind.ONLY_IN_NATIVE_DTYPE: (
        "proved in exact arithmetic, and not what {dtype} computes: a path that only {dtype} takes, "
        "or a choice that rounding turns"
    ),
    CauseKind.COLLECTIVES_DIVERGE: "in exact arithmetic {exact}; in {dtype} {native}",
    CauseKind.USED_BEFORE_WAIT: (
        "the result of the asynchronous {call}{call_line} is used{access}{access_line} before it is waited for"
    ),
    CauseKind.CHANGED_BEFORE_WAIT: (
        "an input of the asynchronous {call}{call_line} is changed{access}{access_line} before it is waited for"
    ),
    CauseKind.INITIAL_OWN: "the ranks' own numbers, not those that one device starts with from the same seed",
    CauseKind.INITIAL_SPREAD: (
        "the ranks' own numbers, whose standard deviation is about {decimal} times one device's: "
        "a fan taken from the shard does that"
    ),
    CauseKind.INITIAL_MEAN: "the ranks' own numbers, whose mean is not that of one device's",
    CauseKind.INITIAL_CONSTANT: "all numbers are the same on one side, and drawn on the other",
    CauseKind.INITIAL_BY_DTENSOR: (
        "DTensor draws the numbers: on GPUs each shard its own, which ranks on CPUs cannot show"
    ),
    CauseKind.INITIAL_REPEATED: "shards that should differ start with the same numbers",
    CauseKind.INITIAL_REPLICAS_DIFFER: "replicas start with different numbers",
    CauseKind.INITIAL_MISSHAPEN: "of another shape than when it is given the proof's values",
    CauseKind.MASK_OWN: "the ranks' own mask, not the one that one device draws from the same seed",
    CauseKind.MASK_REPLICAS_DIFFER: "replicas drop different elements",
    CauseKind.MASK_SHARED: "ranks share one mask on different shards",
    CauseKind.MASK_SHARED_ALONG_DATA: "ranks along the data axes share one mask on different rows",
    CauseKind.MASK_SHARED_ON_OTHER_VALUES: (
        "ranks share one mask on values that are neither one device's nor shards of them"
    ),
    CauseKind.MASK_BY_DTENSOR: "DTensor draws the mask: on GPUs each shard its own, which ranks on CPUs cannot show",
    CauseKind.RECOMPUTED_MASK: "recomputed with another mask than the forward's: the gradient is of another function",
    CauseKind.RECOMPUTED_COLLECTIVE: "recomputed with {recomputed}; in the forward {forward}",
    CauseKind.MASK_TOO_SMALL: "only {elements} elements, of which two masks may agree by chance",
}

_MENDS: Mapping[Mend, str] = {
    Mend.ALL_REDUCE_GRADIENT: "An all-reduce of the gradient over {axes} is missing in the backward.",
    Mend.ALL_REDUCE_IN_FORWARD: "An all-reduce over {axes} is missing in the forward.",
    Mend.ALL_REDUCE_IN_BACKWARD: "An all-reduce over {axes} is missing in the backward.",
    Mend.AVERAGE_GRADIENT: "Average the gradient over {axes} before the update.",
    Mend.GENERATOR_FOR_EACH_SHARD: "Give each rank a generator of its own (an RNG tracker) in parallelize.",
    Mend.TIE: "Tie the two parameters again after the sharding, or sum their gradients before the update.",
    Mend.WAIT: "Call wait() on what the asynchronous call returned, first.",
    Mend.CLIP_WHAT_IS_APPLIED: "Clip the gradients that the optimizer is given, after they are reduced.",
    Mend.STEP_ALL: "Give the optimizer every parameter of the model as it is after the sharding.",
    Mend.STEP_ALIKE: "Give the optimizer one device's learning rate, and the gradients as they were recorded.",
    Mend.COPY_AGAIN: "Use the parameter itself, or copy it again after each update.",
    Mend.REDUCE_SCATTER_IN_BACKWARD: (
        "The backward of an all-gather is a reduce-scatter: sum the ranks' gradients before each takes its part."
    ),
    Mend.GRADIENT_IN_BACKWARD: (
        "Let the backward communicate the gradient that it is given, and not what the forward saved."
    ),
    Mend.STATISTICS_OF_ALL: (
        "Let a rank normalise by statistics over all ranks' rows, and by those of the features that it holds."
    ),
    Mend.COUNT_FROM_PART: "Count positions, heads or features from where the rank's own part begins.",
    Mend.OWN_SHARD: "Let each rank take the shard of its own number{along}.",
    Mend.OFFSETS: "Begin each rank's shard where that of the rank before it ends, also where the dim does not divide.",
    Mend.CUT_EACH: "Cut each of the projections by itself: every rank takes its part of rows {ranges}.",
    Mend.MAXIMUM_OVER_RANKS: "All-reduce the maximum (MAX) over the ranks before it is subtracted.",
    Mend.COUNT_OVER_RANKS: "Divide each rank's sum by the count over all ranks, and add up the shares.",
    Mend.MEAN_OVER_RANKS: "All-reduce each rank's sum, and divide it by the size of the whole.",
    Mend.SAME_POSITIONS: "Mask and shift the labels of the whole sequence before it is split.",
    Mend.REDUCE_FIRST: "All-reduce the statistics of all ranks' tokens before that part of the loss is computed.",
    Mend.SUM_ONCE: "Add up what each rank has of its own part once: what is gathered needs no all-reduce.",
    Mend.MORE_ELEMENTS: "Take a larger batch or more steps.",
    Mend.RESTORE_GENERATOR: "Let the checkpoint keep the state of the generator (preserve_rng_state=True).",
}

# Of causes whose kind alone says what would mend it.
_MENDS_OF_KINDS: Mapping[CauseKind, str] = {
    CauseKind.SAME_VECTOR_OFF: "Add the bias once, after the ranks' values are summed, in the order of the output.",
    CauseKind.PARTS_WITH_BIAS: "Add the bias after the ranks' partial values are summed, or on one rank alone.",
    CauseKind.FEW_VECTORS_OFF: "Set what a rank looks up for other ranks' rows to zero before the rows are summed.",
    CauseKind.ZERO_IN_PART: "Look at the bounds or the mask by which ranks take rows or positions.",
    CauseKind.SHARD_ORDER: "Put the ranks' shards in the order of the ranks.",
    CauseKind.REPLICAS_DIFFER: "Do the same on {rank_list} as on the others: broadcast what is set on one rank.",
    CauseKind.NORM_OF_PART: "Sum the squares over all ranks before the root is taken.",
    CauseKind.NORM_COUNTS_REPLICAS: "Sum the squares of shards over the ranks, and add those of replicas once.",
    CauseKind.NORM_MISSES_SHARD: "Sum the squares over all ranks before the root is taken.",
    CauseKind.NORM_COUNTS_PARAMETER: "Count {parameter} once.",
    CauseKind.NORM_MISSES_PARAMETER: "Count {parameter} too.",
    CauseKind.MISSING_GRADIENT: (
        "Let the gradient reach it: a collective without a backward cuts it off, or a rank that skips the module."
    ),
    CauseKind.LOST: "Let some rank hold every element, also where a dim does not divide by the number of ranks.",
    CauseKind.ZEROED: "Give these ranks the values too, or freeze there what is only padding.",
    CauseKind.HELD_TWICE: "Cut shards that do not overlap.",
    CauseKind.OUT_OF_PLACE: "Cut all rows of the parameter in one order.",
    CauseKind.PADDING_USED: "Keep padding out of the loss, or its gradient at zero.",
    CauseKind.FROZEN: "Set requires_grad of a parameter that replaces another as the other has it.",
    CauseKind.UNFROZEN: "Set requires_grad of a parameter that replaces another as the other has it.",
    CauseKind.BUFFER_GONE: "Register the buffer on the ranks' module too.",
    CauseKind.NO_NUMBER_HERE: "Replace a divisor of zero on these ranks, or divide by what all ranks have together.",
    CauseKind.NO_GRADIENT: "Take a batch that reaches it; or allow the finding, if nothing is to.",
    CauseKind.NEVER_REACHED: "Take a batch that reaches it; or allow the finding, if nothing is to.",
    CauseKind.ONE_SIDED: (
        "Take a batch of more rows, more trials or another seed; or allow the finding, if the {other} one can never be "
        "chosen."
    ),
    CauseKind.NOTHING_SPLIT: "Name modules in the plan as the model does, and split the batch; or allow the finding.",
    CauseKind.LOWER_DTYPE_COLLECTIVE: "Communicate in {dtype}; or allow the finding, if that is meant.",
    CauseKind.ONLY_IN_NATIVE_DTYPE: "Look for a cast, or a branch on the dtype, in what the ranks run.",
    CauseKind.INITIAL_SPREAD: "Take the fan of the full parameter, not of the shard.",
    CauseKind.RECOMPUTED_COLLECTIVE: "Let what is computed again find the group of its first forward.",
}

_NO_BOUNDS: Mapping[NoBound, str] = {
    NoBound.DEGREE: "too many numbers are multiplied with each other before the next cut",
    NoBound.DEPTH: "too many functions are applied one after the other before the next cut",
    NoBound.GATES: "one element depends on too many values of functions like exp and relu",
    NoBound.SOFTMAX: "a softmax of too many elements",
    NoBound.CROSS_ENTROPY: "a cross-entropy of too many tokens and classes in one segment",
    NoBound.ATTENTION: "attention as one op, which is not cut inside",
    NoBound.COMPARED: "too many elements are compared with each other",
    NoBound.SELECTION: "a selection (max, topk, a comparison) whose operands are not compared with the reference's",
    NoBound.READ: "a number was read out of exact arithmetic",
    NoBound.VOID: "in each trial some element divides by zero",
}

_MOST_PARTS = 4


def describe(finding: Finding) -> str:
    """A finding in one line: 'step 1, gradient 0.weight WRONG - 2 times too large'."""
    cause = "" if finding.cause is None else f" - {describe_cause(finding.cause)}"
    return f"{finding.key} {finding.verdict}{cause}"


def describe_cause(cause: Cause, *, mesh: Mapping[str, int] | None = None) -> str:
    """A cause in one clause, without a full stop.

    Args:
        cause: which.
        mesh: the sizes of the mesh's axes by name: where only one has more than one rank, the clause does not name it.
    """
    several = mesh is None or sum(size > 1 for size in mesh.values()) > 1
    return _SENTENCES[cause.kind].format_map(_parameters(cause, name_axes=several))


def describe_unbounded(unbounded: Unbounded) -> str:
    """Why no bound is derived, without a full stop."""
    return _NO_BOUNDS[unbounded.reason]


def describe_mend(cause: Cause) -> str:
    """What would mend it, in one sentence; empty where nothing is known."""
    if cause.mend is None:
        parameters = _parameters(cause, name_axes=True)
        return _mend_of_factor(cause) or _MENDS_OF_KINDS.get(cause.kind, "").format_map(parameters)
    axes = " and ".join(cause.axes)
    return _MENDS[cause.mend].format(axes=axes, along=f" along {axes}", ranges=_ranges(cause.ranges))


def _mend_of_factor(cause: Cause) -> str:
    """Of what is a multiple of what it should be; empty for other causes."""
    if cause.kind is not CauseKind.SCALED or cause.factor is None or cause.factor <= 0:
        return ""
    if cause.factor > 1:
        return f"Sum it over the ranks once, or divide it by {cause.factor}: it is reduced again, or not averaged."
    return f"Divide it once, or multiply it by {1 / cause.factor}: a sum is averaged, or a part is left out."


def describe_collective(collective: CollectiveCall | None) -> str:
    """A collective in words: 'AllReduce SUM of [2, 3] over ranks 0, 1, in up'; 'none' where there is none."""
    if collective is None:
        return "none"
    shapes = " and ".join(str(list(shape)) for shape in collective.shapes[:2])
    placement = f", {collective.placement}" if collective.placement else ""
    return f"{collective.kind} of {shapes} over ranks {_listed(collective.ranks)}{placement}, {collective.location}"


def _parameters(cause: Cause, *, name_axes: bool) -> Mapping[str, str]:
    """What a sentence can name of a cause."""
    actual, expected = cause.shapes if len(cause.shapes) == 2 else ((), ())
    return {
        "about": "about " if cause.approximate else "",
        "over": f" over {' and '.join(cause.axes)}" if name_axes and cause.axes else "",
        "along": f" along {' and '.join(cause.axes)}" if name_axes and cause.axes else "",
        "dim": str(cause.dim),
        "norm_of": f"the norm over {' and '.join(cause.axes)} alone" if cause.axes else "each rank's own norm",
        "places": _places(cause),
        "largest": "" if cause.largest is None else f", at most {cause.largest:.2g} off",
        "factor": str(cause.factor),
        "parameter": cause.parameter,
        "chosen": cause.operands[0] if cause.operands else "",
        "other": cause.operands[1] if len(cause.operands) > 1 else "",
        "size": "" if cause.factor is None else _size(cause.factor),
        "constant": "" if cause.factor is None else f", the logarithm of {cause.factor}",
        "decimal": "" if cause.factor is None else f"{float(cause.factor):.3g}",
        "ranks": _listed(cause.ranks),
        "ranks_are": f"rank {_listed(cause.ranks)} is"
        if len(cause.ranks) == 1
        else f"ranks {_listed(cause.ranks)} are",
        "rank_list": f"rank {_listed(cause.ranks)}" if len(cause.ranks) == 1 else f"ranks {_listed(cause.ranks)}",
        "lacking": f"rank {_listed(cause.ranks)} lacks"
        if len(cause.ranks) == 1
        else f"ranks {_listed(cause.ranks)} lack",
        "ranges": _ranges(cause.ranges),
        "actual": str(actual),
        "expected": str(expected),
        "parts": _parts(cause.parts),
        "elements": str(cause.elements),
        "unmatched": f"; plan entries {_quoted(cause.entries)} match no module" if cause.entries else "",
        "dtype": cause.dtype,
        "exact": describe_collective(cause.exact_collective),
        "native": describe_collective(cause.native_collective),
        "native_dtype": "" if cause.native_collective is None else cause.native_collective.dtype,
        "forward": describe_collective(cause.forward_collective),
        "recomputed": describe_collective(cause.recomputed_collective),
        **_early_access(cause.early_access),
    }


def _early_access(access: EarlyAccess | None) -> Mapping[str, str]:
    return {
        "call": "call" if access is None else access.call,
        "call_line": f" at {access.call_line}" if access and access.call_line else "",
        "access": f" by {access.access}" if access and access.access else "",
        "access_line": f" at {access.access_line}" if access and access.access_line else "",
    }


def _places(cause: Cause) -> str:
    count = "elements differ" if cause.elements is None else f"{cause.elements} elements differ"
    if cause.elements == 1:
        count = "1 element differs"
    if cause.dim is None:
        return count
    plural = "index" if len(cause.indices) == 1 else "indices"
    return f"{count}, all at {plural} {_listed(cause.indices)} of dim {cause.dim},"


def _size(factor: Fraction) -> str:
    if factor <= 0:
        return f"{factor} times what it should be"
    return f"{factor} times too large" if factor > 1 else f"{1 / factor} times too small"


def _parts(parts: Sequence[Part]) -> str:
    named = [f"rank {part.rank}" if part.index is None else f"slice {part.index} of rank {part.rank}" for part in parts]
    more = f" and {len(named) - _MOST_PARTS} more" if len(named) > _MOST_PARTS else ""
    return ", ".join(named[:_MOST_PARTS]) + more


def _ranges(ranges: Sequence[Sequence[int]]) -> str:
    """'0 to 3, 4 to 5 and 6'."""
    each = [str(one[0]) if one[0] == one[-1] else f"{one[0]} to {one[-1]}" for one in ranges]
    return " and ".join([", ".join(each[:-1]), each[-1]] if len(each) > 1 else each)


def _quoted(entries: Sequence[str]) -> str:
    more = f" and {len(entries) - _MOST_PARTS} more" if len(entries) > _MOST_PARTS else ""
    return ", ".join(f"`{one}`" for one in entries[:_MOST_PARTS]) + more


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, numbers))
