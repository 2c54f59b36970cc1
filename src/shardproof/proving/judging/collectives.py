"""Collectives: where the sequences of two runs diverge.

In exact arithmetic the user's code must take the same paths as in their own dtypes; otherwise the proof is not of what
they run.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import TYPE_CHECKING

import torch

from shardproof.proving.cause import Cause, CauseKind
from shardproof.proving.findings import Finding, Verdict
from shardproof.proving.records import Key, Phase

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shardproof.proving.records import CollectiveCall, Records


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """The first collectives in which two runs' sequences differ; None where a sequence has ended."""

    exact: CollectiveCall | None
    native: CollectiveCall | None
    ranks: tuple[int, ...]

    @property
    def first(self) -> CollectiveCall:
        """The one that says where."""
        found = self.exact or self.native
        assert found is not None
        return found

    @property
    def only_shapes(self) -> bool:
        """The same collective, of other shapes: these may depend on values, as a routing's do."""
        if self.exact is None or self.native is None:
            return False
        exact, native = self.exact, self.native
        return exact != native and exact == replace(native, shapes=exact.shapes)


def find_divergence(exact: Sequence[Records], native: Sequence[Records]) -> Divergence | None:
    """The earliest divergence on any rank; None if every rank's sequences are the same.

    Args:
        exact: of each rank, of a run in exact arithmetic.
        native: of each rank, of the run in the user's own dtypes.
    """
    found = {}
    for rank, (one, other) in enumerate(zip(exact, native, strict=True)):
        pairs = enumerate(zip_longest(one.collectives, other.collectives))
        first = next(((at, pair) for at, pair in pairs if not _alike(*pair)), None)
        if first is not None:
            found[rank] = first
    if not found:
        return None
    rank = min(found, key=lambda rank: found[rank][0])
    _, (in_exact, in_native) = found[rank]
    return Divergence(exact=in_exact, native=in_native, ranks=tuple(found))


def conclude_divergence(divergence: Divergence, dtype: str) -> Finding:
    """The finding of a divergence.

    Args:
        divergence: between exact arithmetic and the user's own dtypes.
        dtype: the user's, as `Native.dtype`.
    """
    cause = Cause(
        kind=CauseKind.COLLECTIVES_DIVERGE,
        exact_collective=divergence.exact,
        native_collective=divergence.native,
        dtype=dtype,
    )
    return Finding(
        key=Key(divergence.first.step, Phase.COLLECTIVES, divergence.first.location),
        verdict=Verdict.UNDECIDED if divergence.only_shapes else Verdict.WRONG,
        cause=cause,
        ranks=divergence.ranks,
    )


def find_lower_dtype(native: Sequence[Records], dtype: str) -> CollectiveCall | None:
    """The first collective of floating tensors in a lower precision than any dtype of the model; None if there is none.

    Args:
        native: of each rank, of the run in the user's own dtypes.
        dtype: the user's, as `Native.dtype`.
    """
    coarsest = max(_epsilon(one) for one in dtype.split(" and "))
    calls = (call for records in native for call in records.collectives)
    return next((call for call in calls if _epsilon(call.dtype) > coarsest), None)


def _epsilon(dtype: str) -> float:
    """Of a floating dtype by its name; 0 for any other name."""
    known = getattr(torch, dtype, None) if dtype else None
    return torch.finfo(known).eps if isinstance(known, torch.dtype) and known.is_floating_point else 0.0


def _alike(exact: CollectiveCall | None, native: CollectiveCall | None) -> bool:
    """Whether two collectives are the same, but for how an average is taken: the runs' values show whether it is right.

    FSDP2 averages by AVG or PREMUL_SUM in float32 and bfloat16, and by SUM and divisions in any other dtype.
    """
    if exact is None or native is None:
        return exact is native
    return _by_sum(exact) == _by_sum(native)


def _by_sum(collective: CollectiveCall) -> CollectiveCall:
    return replace(collective, kind=collective.kind.replace(" AVG", " SUM").replace(" PREMUL_SUM", " SUM"))
