"""Rounding noise: how far the candidate is from the reference in floating point, in units of the reference's own noise.

In the user's own dtypes both sides start from the same values, rounded to these dtypes. The reference also runs in
float64 from them. Its deviation from float64 is its rounding noise, tensor by tensor and step by step: the largest of
three runs, one from the same values and two from values one unit in the last place away. A candidate that computes the
same function in another order is about as far away (`OwnRuns`).

In float64, beside an exact proof, the noise is that of float32, scaled down (`measure_rounding`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from shardproof.comparison import compare
from shardproof.proving.deviation import largest, largest_difference, without_masks, worst
from shardproof.proving.findings import Numbers, Rounding
from shardproof.proving.judging.alignment import ActualExpected, Alignment
from shardproof.proving.records import OF_PARAMETERS, RESULTS, SAMPLES, UNROUNDED, Phase, Precision

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from shardproof.proving.deviation import Deviation
    from shardproof.proving.judging.layout import Layout
    from shardproof.proving.records import BothSides, Key, Records, Replay

# A tensor of few elements can be right by luck: its noise is at least this many epsilons of its largest element.
_FLOOR_EPSILONS = 2.0

# float32 has 2**29 times the epsilon of float64: this scales the reference's noise in float32 down to float64.
_FLOAT32_TO_FLOAT64 = 2.0**-29
# In float64: up to how many times that noise two runs agree. Another order of summation is not much farther away.
FLOAT64_ROUNDING_RATIO = 64.0
# Where float32 did not round at all (small integers), float64 still may: in epsilons of the largest element.
_FLOAT64_FLOOR_EPSILONS = 64.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayedUpdates:
    """One device's updates from a rank's own inputs, and the candidate's ranks beside them in the user's own dtypes."""

    replay: Replay
    beside: Alignment


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """What was measured of the tensors of parameters, while the reference's were in memory.

    Attributes:
        numbers: by key; None where the values cannot be compared.
        lacking: which of them one side alone has, or a rank in another shape.
    """

    numbers: Mapping[Key, Numbers | None] = field(default_factory=dict)
    lacking: frozenset[Key] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnRuns:
    """The runs in the user's own dtypes, aligned.

    Attributes:
        measured: the candidate's ranks beside the reference in float64.
        beside: the same ranks beside the reference in its own dtypes.
        samples: the deviations of the reference in its own dtypes, in several runs.
        replays: beside which the updates and states of each rank are measured; see `update_inputs.py`.
        settled: of tensors that the reference's runs do not hold any more.
        dtype: the user's own dtypes in words, as `Native.dtype`.
        scale: what the measured noise is to be multiplied by.
    """

    measured: Alignment
    beside: Alignment
    samples: Sequence[Mapping[Key, Deviation | None]]
    replays: Mapping[int, ReplayedUpdates] = field(default_factory=dict)
    settled: Settled = field(default_factory=Settled)
    dtype: str = ""
    scale: float = 1.0

    def of(self, key: Key) -> Numbers | None:
        """A tensor's numbers; None where its values cannot be compared."""
        if key.phase in (Phase.STATE, Phase.UPDATE) and self.replays:
            replayed = self._of_update(key)
            if replayed is not None:
                return replayed
        if key in self.settled.numbers:
            return self.settled.numbers[key]
        found = [alignment.of(key) for alignment in (self.measured, self.beside)]
        aligned = [one for one in found if one is not None and not one.fault and one.held]
        if len(aligned) < 2 or aligned[0].misshapen:
            return None
        numbers = []
        for part in _parts_of(key, self.measured.layout, self.samples):
            measured, beside = (part.of(one.held) for one in aligned)
            if key.phase not in RESULTS:
                measured, beside = _without_masks(measured), _without_masks(beside)
            if measured:
                error = worst(largest_difference(one.actual, one.expected) for one in measured.values())
                numbers.append(_measure(error, beside, part.deviations, self.scale))
        return max(numbers, key=lambda one: math.inf if one.no_reference else one.ratio, default=None)

    def _of_update(self, key: Key) -> Numbers | None:
        """Numbers beside the updates that one device makes of the candidate's own gradients and states."""
        errors, beside, own = [], {}, []
        whole = _of_reference(key, self.measured.layout)
        for rank, runs in self.replays.items():
            aligned = runs.beside.of(key)
            if aligned is None or aligned.fault or aligned.misshapen:
                return None
            if rank not in aligned.held:
                continue
            deviations = [runs.replay.deviations.get(one) for one in whole]
            known = [deviation for deviation in deviations if deviation is not None]
            if not known or len(known) < len(deviations):
                return None
            beside[rank] = aligned.held[rank]
            errors += [runs.replay.errors[one] for one in whole]
            own += known
        return _measure(worst(errors), beside, own, self.scale) if beside else None

    def lacks(self, key: Key) -> bool:
        """Whether one side alone has a tensor in these dtypes, or a rank has it in another shape."""
        if key in self.settled.numbers:
            return key in self.settled.lacking
        aligned = self.measured.of(key)
        in_reference = self.beside.reference_has(key)
        on_ranks = any(key in records.tensors for records in self.measured.ranks)
        if not in_reference or not on_ranks:
            return in_reference or on_ranks
        return aligned is not None and (aligned.fault is not None or aligned.misshapen is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """What is measured together: elements of one of the reference's parameters, or a whole tensor.

    Attributes:
        deviations: of the reference's runs that round.
        span: the elements in the full state; None: all that the ranks hold.
    """

    deviations: Sequence[Deviation]
    span: slice | None = None

    def of(self, held: Mapping[int, ActualExpected]) -> Mapping[int, ActualExpected]:
        """The elements on the ranks that hold some of them."""
        span = self.span
        if span is None:
            return held
        found = {}
        for rank, one in held.items():
            assert one.element_index is not None
            inside = (one.element_index >= span.start) & (one.element_index < span.stop)
            if bool(inside.any()):
                found[rank] = ActualExpected(actual=one.actual[inside], expected=one.expected[inside])
        return found


def _parts_of(key: Key, layout: Layout, samples: Sequence[Mapping[Key, Deviation | None]]) -> Iterator[_Part]:
    """A tensor, or the parts of a parameter that the reference does not have: of each of its own a noise of its own.

    A flat buffer holds elements of several parameters, whose gradients may be of very different magnitudes.
    """
    for whole, span in _of_reference(key, layout).items():
        found = [sample[whole] for sample in samples if whole in sample]
        known = [deviation for deviation in found if deviation is not None]
        if known and len(known) == len(found):
            yield _Part(deviations=known, span=span)


def _of_reference(key: Key, layout: Layout) -> dict[Key, slice | None]:
    """The key itself; of a parameter that the reference does not have those of its own, and their elements."""
    name, _, suffix = key.name.partition("/")
    if key.phase not in OF_PARAMETERS or name in layout.state.names:
        return {key: None}
    return {
        replace(key, name=f"{one}/{suffix}" if suffix else one): layout.state.span(one) for one in layout.spans(name)
    }


def settle_parameters(both: BothSides, layout: Layout) -> Settled:
    """Measure every tensor of parameters in the user's own dtypes, in which the reference must have run."""
    own = align_own_runs(both, layout)
    tensors = (own.measured.reference.tensors, *(records.tensors for records in own.measured.ranks))
    keys = dict.fromkeys(key for held in tensors for key in held if key.phase in OF_PARAMETERS)
    return Settled(numbers={key: own.of(key) for key in keys}, lacking=frozenset(key for key in keys if own.lacks(key)))


def align_own_runs(both: BothSides, layout: Layout, settled: Settled | None = None) -> OwnRuns:
    """The runs in the user's own dtypes, which the reference must have.

    In float64, where nothing more precise is at hand, the noise is that of float32, scaled.

    Args:
        both: the runs.
        layout: of the candidate.
        settled: what was measured before, of tensors that the reference's runs do not hold any more.
    """
    reference, own = both.reference, both.own_precision
    in_float64 = own is Precision.FLOAT64
    candidate = [side.native[own] for side in both.ranks]
    samples = (Precision.FLOAT32,) if in_float64 else SAMPLES

    def beside(records: Records) -> Alignment:
        return Alignment(
            reference=records, ranks=candidate, layout=layout, axes=both.axes, own_training=both.own_training
        )

    replays: dict[int, ReplayedUpdates] = {}
    for replay in both.replays:
        updates = ReplayedUpdates(replay=replay, beside=beside(replay.own))
        replays |= dict.fromkeys(replay.ranks, updates)

    return OwnRuns(
        measured=beside(reference.native[UNROUNDED[samples[0]]]),
        beside=beside(reference.native[own]),
        samples=[reference.native[one].deviations for one in samples],
        replays=replays,
        settled=settled or Settled(),
        dtype=both.dtype,
        scale=_FLOAT32_TO_FLOAT64 if in_float64 else 1.0,
    )


def _without_masks(held: Mapping[int, ActualExpected]) -> dict[int, ActualExpected]:
    """Infinities that are the same on both sides, and scores that both sides mask, as zeros."""

    def without(one: ActualExpected) -> ActualExpected:
        actual, expected = without_masks(one.actual, one.expected)
        return one if actual is one.actual else replace(one, actual=actual, expected=expected)

    return {rank: without(one) for rank, one in held.items()}


def _measure(
    error: float, beside: Mapping[int, ActualExpected], own: Sequence[Deviation], noise_scale: float
) -> Numbers:
    pairs = [compare(one.actual, one.expected.to(one.actual.dtype)) for one in beside.values()]
    scale = worst(one.scale for one in own)  # a rank may hold none of it
    noise = worst(one.difference for one in own)
    if noise_scale < 1 and not math.isfinite(noise):
        noise = 0.0  # float32 overflows where float64 does not
    return Numbers(
        exact=all(pair.exact for pair in pairs),
        approximate=all(pair.approximate for pair in pairs),
        maxdiff=worst(pair.maxdiff for pair in pairs),
        error=error,
        noise=noise_scale * max(noise, _FLOOR_EPSILONS * own[0].epsilon * scale),
        scale=scale,
    )


def measure_rounding(key: Key, candidate: Alignment, float32: Mapping[Key, Deviation | None]) -> Rounding | None:
    """Compare a tensor in the runs in ordinary float64; None where its values cannot be compared.

    Args:
        key: which tensor.
        candidate: the candidate's ranks in float64 beside the reference in float64.
        float32: how far the reference in float32 is from it.
    """
    aligned = candidate.of(key)
    if aligned is None or aligned.fault or aligned.misshapen:
        return None
    parts = _parts_of(key, candidate.layout, [float32])
    found = [_rounding_of(key, part.of(aligned.held), part.deviations[0]) for part in parts]
    return max(found, key=lambda one: (not one.agrees, one.maxdiff), default=None)


def _rounding_of(key: Key, values: Mapping[int, ActualExpected], in_float32: Deviation) -> Rounding:
    if key.phase not in RESULTS:
        values = _without_masks(values)
    pairs = [(one.actual, one.expected) for one in values.values() if one.expected.numel()]
    maxdiff = worst([largest_difference(*pair) for pair in pairs] or [0.0])
    magnitude = worst([largest(expected) for _, expected in pairs] or [0.0])
    noise = in_float32.difference * _FLOAT32_TO_FLOAT64
    noise = max(noise, _FLOAT64_FLOOR_EPSILONS * torch.finfo(torch.float64).eps * magnitude / FLOAT64_ROUNDING_RATIO)
    agrees = math.isfinite(maxdiff) and maxdiff <= FLOAT64_ROUNDING_RATIO * noise
    return Rounding(maxdiff=maxdiff, noise=noise, agrees=agrees)
