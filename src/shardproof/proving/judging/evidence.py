"""Evidence of a proof, collected from the records of both sides; see `proving/evidence.py`."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import torch

from shardproof.proving.evidence import Activation, Agreement, Evidence, ShardMap
from shardproof.proving.findings import ROUNDING_RATIO
from shardproof.proving.judging.alignment import align
from shardproof.proving.judging.layout import PADDING
from shardproof.proving.judging.sampling import take_sample
from shardproof.proving.records import ACTIVATIONS, Precision

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

    from shardproof.proving.evidence import Box, Sample
    from shardproof.proving.findings import Finding
    from shardproof.proving.judging.alignment import Alignment
    from shardproof.proving.judging.layout import Layout
    from shardproof.proving.judging.outcomes import Outcome
    from shardproof.proving.records import BothSides, CollectiveCall, Key, Records, SideRecord

_MOST_RANKS = 4  # of which samples of one tensor are kept, those that are wrong first
_MOST_SAMPLED = 400_000  # cells of all samples together
_MOST_RANGES = 16  # of the indices of one dim that a rank holds


def collect_evidence(
    both: BothSides,
    layout: Layout,
    outcomes: Mapping[Key, Outcome],
    findings: Sequence[Finding],
    show: Sequence[str] = (),
) -> Evidence:
    """Collect what a page shows.

    Args:
        both: the first trial, and the runs in ordinary arithmetic.
        layout: of the candidate.
        outcomes: of the first trial; empty where there is none.
        findings: of the proof, in execution order.
        show: patterns for '<phase> <name>' of tensors whose values are shown although they are right.
    """
    exact = align(both, layout, lambda side: side.trials[0]) if both.primes else None
    numbers = align(both, layout, lambda side: side.native[Precision.FLOAT64])
    failed = {finding.key for finding in findings if finding.failed}
    samples, left_out = _sample_all(_wanted(findings, show), numbers, exact)
    return Evidence(
        activations=tuple(_see_activations(exact or numbers, outcomes, failed)),
        parameters={name: _locate_parameter(layout, name) for name in layout.element_index},
        collectives=_merge_calls([_own_run(both, side) for side in both.ranks]),
        samples=samples,
        left_out=left_out,
    )


# Activations and layouts ----------------------------------------------------------------------------------------------


def _see_activations(alignment: Alignment, outcomes: Mapping[Key, Outcome], failed: set[Key]) -> Iterator[Activation]:
    for key in alignment.reference.tensors:
        if key.phase not in ACTIVATIONS:
            continue
        agreement = Agreement.NOT_COMPARED
        if key in failed:
            agreement = Agreement.DIFFERENT
        elif key in outcomes:
            outcome = outcomes[key]
            right = Agreement.PARTIAL if outcome.partial else Agreement.EQUAL
            agreement = right if outcome.equal else Agreement.DIFFERENT
        elif not outcomes and alignment.of(key) is not None:
            agreement = Agreement.EQUAL  # numbers alone: it would have been a finding
        numbers = alignment.number_elements(key)
        shape = tuple(alignment.reference.tensors[key].values.shape)
        shards = None if not numbers else ShardMap(shape=shape, boxes=_boxes(numbers, shape))
        yield Activation(key=key, agreement=agreement, shards=shards)


def _locate_parameter(layout: Layout, name: str) -> ShardMap:
    """The shards of a parameter; without boxes where it holds elements of several, or one device has no such name."""
    state = layout.state
    if name not in state.names:
        return ShardMap(shape=())
    shape = tuple(state.shapes[state.names.index(name)])
    if list(layout.spans(name)) != [name]:
        return ShardMap(shape=shape)
    start = state.span(name).start
    held = {rank: index[index != PADDING] - start for rank, index in layout.element_index[name].items()}
    return ShardMap(shape=shape, boxes=_boxes(held, shape))


def _boxes(held: Mapping[int, Tensor], shape: tuple[int, ...]) -> dict[int, Box]:
    found = {rank: _box_of(numbers.reshape(-1), shape) for rank, numbers in held.items()}
    return {rank: box for rank, box in found.items() if box is not None}


def _box_of(numbers: Tensor, shape: tuple[int, ...]) -> Box | None:
    """The ranges of each dim whose product is exactly these elements; None where no product is."""
    if not numbers.numel():
        return None
    if not shape:
        return ()
    dims = [one.unique() for one in torch.unravel_index(numbers, shape)]
    count = 1
    for dim in dims:
        count *= len(dim)
    ranges = tuple(_ranges(dim) for dim in dims)
    fits = count == numbers.unique().numel() and all(len(one) <= _MOST_RANGES for one in ranges)
    return ranges if fits else None


def _ranges(indices: Tensor) -> tuple[tuple[int, int], ...]:
    """Sorted indices as ranges of a start and a stop."""
    breaks = (indices.diff() != 1).nonzero().flatten() + 1
    parts = indices.tensor_split(breaks.tolist())
    return tuple((int(part[0]), int(part[-1]) + 1) for part in parts)


# Collectives ----------------------------------------------------------------------------------------------------------


def _merge_calls(ranks: Sequence[Records]) -> tuple[CollectiveCall, ...]:
    """Each rank's calls, without those that a rank before it takes part in."""
    merged: list[CollectiveCall] = []
    for rank, records in enumerate(ranks):
        merged += [call for call in records.collectives if not any(one in call.ranks for one in range(rank))]
    return tuple(merged)


def _own_run(both: BothSides, side: SideRecord) -> Records:
    """The run in the user's own dtypes, or in float64 where one device has none."""
    return side.native[Precision.FLOAT64 if both.reference.failed else both.own_precision]


# Values ---------------------------------------------------------------------------------------------------------------


def _wanted(findings: Sequence[Finding], show: Sequence[str]) -> list[Finding]:
    """First causes, then what was asked for, then what follows."""
    asked = [one for one in findings if any(fnmatchcase(f"{one.key.phase} {one.key.name}", each) for each in show)]
    failed = [one for one in findings if one.failed]
    ordered = [*(one for one in failed if one.root), *asked, *failed]
    return list({one.key: one for one in ordered}.values())


def _sample_all(
    findings: Sequence[Finding], numbers: Alignment, exact: Alignment | None
) -> tuple[dict[Key, tuple[Sample, ...]], int]:
    """The samples of as many tensors as have space, and how many have none."""
    samples: dict[Key, tuple[Sample, ...]] = {}
    space, left_out = _MOST_SAMPLED, 0
    for finding in findings:
        taken = _sample_one(finding, numbers, exact) if space > 0 else ()
        if taken:
            samples[finding.key] = taken
            space -= sum(one.differs.numel() for one in taken)
        elif space <= 0:
            left_out += 1
    return samples, left_out


def _sample_one(finding: Finding, numbers: Alignment, exact: Alignment | None) -> tuple[Sample, ...]:
    key = finding.key
    if not any(key in records.tensors for records in numbers.ranks):
        return ()
    aligned = numbers.of(key)
    if aligned is None or aligned.fault is not None:
        return ()
    in_exact = None if exact is None else exact.of(key)
    ranks = sorted(aligned.held, key=lambda rank: rank not in finding.ranks)[:_MOST_RANKS]
    noise = ROUNDING_RATIO * finding.numbers.noise if finding.numbers is not None else 0.0
    taken = []
    for rank in sorted(ranks):
        held = aligned.held[rank]
        if held.actual.shape != held.expected.shape or not held.actual.numel():
            continue
        differs = ~((held.actual - held.expected).abs() <= noise)
        if in_exact is not None and rank in in_exact.held:
            judged = in_exact.held[rank].judged
            if judged.actual.shape == judged.expected.shape == held.actual.shape:
                differs = judged.actual != judged.expected
        taken.append(take_sample(rank, held, differs))
    return tuple(taken)
