"""Numbers: how far the candidate is from the reference in the user's own dtypes, beside the reference's own rounding.

Both sides start from the same values, those that the dtypes hold. The reference also runs in float64 from them: how far
it is from that in its own dtypes is its rounding noise, tensor by tensor and step by step, the largest of three runs:
one from the same values, and two from values one unit in the last place away. A candidate that computes the same
function rounds otherwise, and is about as far away.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from shardproof.comparison import compare
from shardproof.proving.axes import Axes
from shardproof.proving.findings import Verdict
from shardproof.proving.judging.alignment import Alignment
from shardproof.proving.judging.layout import find_layout
from shardproof.proving.judging.rounding import FROM_FLOAT32
from shardproof.proving.records import OF_PARAMETERS
from shardproof.proving.running.models import SAMPLES, Precision

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from torch import Tensor

    from shardproof.proving.judging.alignment import Held
    from shardproof.proving.judging.layout import Layout
    from shardproof.proving.records import Key, Records
    from shardproof.proving.running.one_rank import Side

# How many times the reference's noise a candidate may be away and be called rounding; docs/proving.md has what right
# shardings need.
ALLOWED = 8.0
# Beyond how many times it can be no rounding.
FAR = 16.0
# A tensor of few elements can be right by luck: its noise is at least so many epsilons of its largest element.
FLOOR_EPSILONS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """One tensor in the user's own dtypes.

    Attributes:
        exact: candidate and reference are equal, both in these dtypes.
        approximate: they are, within torch.testing's tolerances.
        maxdiff: the largest difference between them.
        error: the largest between the candidate and the reference in float64.
        noise: the largest between the reference and itself in float64, or its least.
        scale: the largest magnitude in the reference in float64.
    """

    exact: bool
    approximate: bool
    maxdiff: float
    error: float
    noise: float
    scale: float

    @property
    def ratio(self) -> float:
        """The error in units of the noise; infinite where there is an error and no noise, or an error is not finite."""
        if not math.isfinite(self.error):
            return math.inf
        if not self.noise:
            return math.inf if self.error else 0.0
        return self.error / self.noise

    @property
    def within(self) -> bool:
        """It is rounding: at most `ALLOWED` times the noise."""
        return self.ratio <= ALLOWED

    @property
    def far(self) -> bool:
        """It is no rounding: more than `FAR` times a noise that could be measured."""
        return self.ratio > FAR and self.noise > 0

    @property
    def verdict(self) -> Verdict:
        """What the numbers alone say."""
        if not self.scale and not self.error:
            return Verdict.VACUOUS
        if self.within:
            return Verdict.ROUNDING
        return Verdict.WRONG if self.far else Verdict.UNDECIDED


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnRuns:
    """The runs in the user's own dtypes, laid side by side.

    Attributes:
        measured: the candidate's ranks beside the reference in float64.
        beside: the same ranks beside the reference in its own dtypes.
        reference: the reference in its own dtypes, several times, beside itself in float64.
        shrink: the noise measured is so many times as large as it is in these dtypes.
    """

    measured: Alignment
    beside: Alignment
    reference: Alignment
    shrink: float = 1.0

    def of(self, key: Key) -> Numbers | None:
        """A tensor's numbers; None where the two sides do not have it side by side."""
        if key.phase in OF_PARAMETERS and key.name.partition("/")[0] not in self.reference.layout.places:
            return None  # a parameter that one device has not
        found = [alignment.of(key) for alignment in (self.measured, self.beside, self.reference)]
        aligned = [one.held for one in found if one is not None and not one.fault and one.held]
        if len(aligned) < 3 or any(one.actual.shape != one.expected.shape for one in aligned[0].values()):
            return None
        measured, beside, own = aligned
        return _measure(measured, beside, own, self.shrink)


def lay_side_by_side(
    reference: Side, ranks: Sequence[Side], layout: Layout, axes: Axes, *, own_training: bool = False
) -> OwnRuns | None:
    """The runs in the user's own dtypes, or None where the reference has none.

    In float64, where nothing more precise is at hand, the noise is that of float32, scaled.
    """
    in_float64 = Precision.ROUNDED not in reference.native
    if not in_float64 and Precision.OWN not in reference.native:
        return None
    own = Precision.FLOAT64 if in_float64 else Precision.OWN
    rounded = reference.native[Precision.FLOAT64 if in_float64 else Precision.ROUNDED]
    candidate = [side.native[own] for side in ranks]
    noisy = [reference.native[one] for one in ((Precision.FLOAT32,) if in_float64 else SAMPLES)]
    whole = {name: dict.fromkeys(range(len(noisy)), values) for name, values in reference.parameters.items()}

    def beside(records: Records) -> Alignment:
        return Alignment(reference=records, ranks=candidate, layout=layout, axes=axes, own_training=own_training)

    return OwnRuns(
        measured=beside(rounded),
        beside=beside(reference.native[own]),
        reference=Alignment(
            reference=rounded,
            ranks=noisy,
            layout=find_layout(reference.parameters, whole),
            axes=Axes(sizes={"sample": len(noisy)}),
        ),
        shrink=FROM_FLOAT32 if in_float64 else 1.0,
    )


def _measure(
    measured: Mapping[int, Held], beside: Mapping[int, Held], own: Mapping[int, Held], shrink: float
) -> Numbers:
    pairs = [compare(one.actual, one.expected.to(one.actual.dtype)) for one in beside.values()]
    scale = largest(own[0].expected)
    epsilon = torch.finfo(own[0].actual.dtype).eps
    noise = _worst(largest(one.actual.double() - one.expected) for one in own.values())
    return Numbers(
        exact=all(pair.exact for pair in pairs),
        approximate=all(pair.approximate for pair in pairs),
        maxdiff=_worst(pair.maxdiff for pair in pairs),
        error=_worst(largest(one.actual.double() - one.expected) for one in measured.values()),
        noise=shrink * max(noise, FLOOR_EPSILONS * epsilon * scale),
        scale=scale,
    )


def largest(tensor: Tensor) -> float:
    """The largest magnitude; 0 where there are no elements, NaN where one is NaN."""
    return float(tensor.abs().max()) if tensor.numel() else 0.0


def _worst(differences: Iterable[float]) -> float:
    """The largest; NaN if there is one, which `max` may overlook."""
    found = list(differences)
    return math.nan if any(math.isnan(one) for one in found) else max(found)
