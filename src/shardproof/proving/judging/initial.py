"""Initial values, a check of their own: does a sharding start with what one device starts with, from one seed?

The proof itself replaces the initial values, so it cannot see a sharding that initialises its shards. The user's model
is therefore also built from a seed and sharded as it is, with the values that it draws.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING

import torch

from shardproof.proving.cause import Cause, CauseKind
from shardproof.proving.findings import Finding, Verdict
from shardproof.proving.judging.layout import PADDING
from shardproof.proving.records import Key, Phase

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from torch import Tensor

    from shardproof.proving.judging.layout import Layout

    Values = Mapping[str, Tensor]

_DEVIATIONS = 5.0  # a right initialisation is that far off in one of a million parameters
_LEAST_KURTOSIS = 1.8  # of a uniform distribution


def judge_initial(
    reference: Values, ranks: Sequence[Values], layout: Layout, by_dtensor: Collection[str] = ()
) -> tuple[Finding, ...]:
    """One finding for all parameters if each is what one device starts with, else one for each that is not.

    Args:
        reference: the full parameters that one device starts with.
        ranks: what each rank starts with.
        layout: where each rank's elements lie, found from the values of the proof.
        by_dtensor: the parameters whose shards DTensor has drawn: on CPUs all alike, which is no error.
    """
    whole = layout.state.flatten(reference).double()
    found = [
        _judge(
            name,
            {rank: values[name] for rank, values in enumerate(ranks) if name in values},
            layout,
            whole,
            reference,
            by_dtensor=name in by_dtensor,
        )
        for name in dict.fromkeys(name for values in ranks for name in values)
    ]
    others = tuple(finding for finding in found if finding.verdict is not Verdict.PROVED)
    if others:
        return others
    elements = sum(tensor.numel() for rank in ranks for tensor in rank.values())
    return (replace(_finding("all parameters", Verdict.PROVED, None), elements=elements, false_accept=0.0),)


def find_faults(
    reference: Values,
    ranks: Sequence[Values],
    names: Collection[str],
    drawn: Collection[str],
    by_dtensor: Collection[str] = (),
) -> tuple[Finding, ...]:
    """The parameters whose shards cannot be right whichever elements they are; no layout is known.

    Args:
        reference: the full parameters that one device starts with.
        ranks: what each rank starts with.
        names: of parameters that all ranks have.
        drawn: of those that the sharding fills itself, whose mean and spread are compared.
        by_dtensor: the parameters whose shards DTensor has drawn.
    """
    found = []
    for name in names:
        held = [rank[name] for rank in ranks]
        if name in reference and name not in by_dtensor and _is_repeated(held, reference[name]):
            found.append(_finding(name, Verdict.WRONG, CauseKind.INITIAL_REPEATED))
        elif name in reference and name in drawn:
            cause = find_other_spread(held, reference[name])
            if cause is not None:
                found.append(replace(_finding(name, Verdict.WRONG, cause.kind), cause=cause))
    return tuple(found)


def _judge(
    name: str, by_rank: Mapping[int, Tensor], layout: Layout, whole: Tensor, reference: Values, *, by_dtensor: bool
) -> Finding:
    held = list(by_rank.values())
    element_index = [layout.element_index[name][rank] for rank in by_rank]
    if any(own.shape != index.shape for own, index in zip(held, element_index, strict=True)):
        return _finding(name, Verdict.WRONG, CauseKind.INITIAL_MISSHAPEN)
    wrong = [rank for rank, own in by_rank.items() if not _is_right(own, layout, name, rank, whole)]
    if not wrong:
        return _finding(name, Verdict.PROVED, None)
    if _replicas_differ(held, element_index):
        return _finding(name, Verdict.WRONG, CauseKind.INITIAL_REPLICAS_DIFFER, wrong)
    repeated = name in reference and _is_repeated(held, reference[name])
    if repeated and not by_dtensor:
        return _finding(name, Verdict.WRONG, CauseKind.INITIAL_REPEATED, wrong)
    parts = [own[index != PADDING] for own, index in zip(held, element_index, strict=True)]
    cause = find_other_spread(parts, reference[name]) if name in reference else None
    if cause is not None:
        return replace(_finding(name, Verdict.WRONG, cause.kind, wrong), cause=cause)
    return _finding(name, Verdict.DRAWN, CauseKind.INITIAL_BY_DTENSOR if repeated else CauseKind.INITIAL_OWN, wrong)


def find_other_spread(held: Sequence[Tensor], full: Tensor) -> Cause | None:
    """The cause if values that the ranks drew cannot be of the distribution that one device draws from.

    Means and standard deviations are compared, each to within `_DEVIATIONS` standard errors of both samples. The
    standard error of a standard deviation s of n numbers of kurtosis k is s * sqrt((k - 1) / 4n).

    Args:
        held: what each rank holds; replicas count once.
        full: what one device starts with.
    """
    shards: list[Tensor] = []
    for own in held:
        if own.numel() and not any(torch.equal(own, other) for other in shards):
            shards.append(own.reshape(-1))
    if not shards or not full.numel():
        return None
    actual, expected = torch.cat(shards).double(), full.reshape(-1).double()
    share = 1 / actual.numel() + 1 / expected.numel()
    deviation, wanted = float(actual.std(correction=0)), float(expected.std(correction=0))
    if bool(wanted) != bool(deviation) and min(actual.numel(), expected.numel()) > 1:
        return Cause(kind=CauseKind.INITIAL_CONSTANT)
    largest = max(deviation, wanted)
    if abs(float(actual.mean() - expected.mean())) > _DEVIATIONS * largest * share**0.5:
        return Cause(kind=CauseKind.INITIAL_MEAN)
    kurtosis = max(_kurtosis(actual), _kurtosis(expected), _LEAST_KURTOSIS)
    if abs(deviation - wanted) > _DEVIATIONS * largest * ((kurtosis - 1) / 4 * share) ** 0.5:
        return Cause(kind=CauseKind.INITIAL_SPREAD, factor=Fraction(deviation / wanted).limit_denominator(100))
    return None


def _kurtosis(values: Tensor) -> float:
    """The mean of fourth powers over the square of the variance: 1.8 of a uniform distribution, 3 of a normal one."""
    centred = values - values.mean()
    variance = float(centred.square().mean())
    return float(centred.pow(4).mean()) / variance**2 if variance else 0.0


def _is_right(own: Tensor, layout: Layout, name: str, rank: int, whole: Tensor) -> bool:
    if rank in layout.parts.get(name, {}):
        return torch.equal(own, layout.take(whole, name, rank))
    element_index = layout.element_index[name][rank]
    kept = element_index != PADDING
    return torch.equal(own[kept], whole[element_index[kept]])


def _replicas_differ(held: Sequence[Tensor], element_index: Sequence[Tensor]) -> bool:
    """Whether an element of the full parameter has two values on different ranks."""
    at = torch.cat([index.reshape(-1) for index in element_index])
    values = torch.cat([own.reshape(-1) for own in held])[at != PADDING]
    _, of = at[at != PADDING].unique(return_inverse=True)
    least = torch.full((int(of.max()) + 1,), torch.inf, dtype=values.dtype).scatter_reduce_(0, of, values, "amin")
    most = torch.full_like(least, -torch.inf).scatter_reduce_(0, of, values, "amax")
    return not torch.equal(least, most)


def _is_repeated(held: Sequence[Tensor], full: Tensor) -> bool:
    """Whether the different shards together are smaller than the parameter, and neither constant nor cut from it."""
    different: list[Tensor] = []
    for own in held:
        if not any(torch.equal(own, other) for other in different):
            different.append(own)
    if sum(own.numel() for own in different) >= full.numel():
        return False
    drawn = any(not bool(torch.isin(own, full).all()) for own in different)
    return drawn and all(len(own.unique()) > 1 for own in different)


def _finding(name: str, verdict: Verdict, kind: CauseKind | None, ranks: Sequence[int] = ()) -> Finding:
    return Finding(
        key=Key(0, Phase.INITIAL, name),
        verdict=verdict,
        cause=None if kind is None else Cause(kind=kind),
        ranks=tuple(ranks),
        root=not verdict.ok,
    )
