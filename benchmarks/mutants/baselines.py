"""What people compare today, on the same mutants in float32: each says whether it sees a difference."""

from __future__ import annotations

from collections import Counter, defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from shardproof.proving.axes import Axes
from shardproof.proving.judging.alignment import Alignment
from shardproof.proving.judging.layout import find_layout
from shardproof.proving.records import Key, Phase

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch import Tensor

    from shardproof.proving.judging.alignment import Held
    from shardproof.proving.records import Records

EPSILONS = 100
NAMES = ("loss", "allclose", "1e-2", "1e-5", "parameters", "counts", "rel. norm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Natively:
    """One rank's, or the one device's, float32 run.

    Attributes:
        parameters: before the first step.
        records: what it computed.
        collectives: how many of each kind.
    """

    parameters: Mapping[str, Tensor]
    records: Records
    collectives: Counter[str] = field(default_factory=Counter)


_COLLECTIVES = ("all_reduce", "all_gather", "all_gather_single", "reduce_scatter_single")


@contextmanager
def count_collectives() -> Iterator[Mapping[int, Counter[str]]]:
    """By rank, how many of each kind are called through `torch.distributed`."""
    counts: defaultdict[int, Counter[str]] = defaultdict(Counter)

    def counted(name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            counts[dist.get_rank()][name] += 1
            return originals[name](*args, **kwargs)

        return call

    originals = {name: getattr(dist, name) for name in _COLLECTIVES}
    for name in _COLLECTIVES:
        setattr(dist, name, counted(name))
    try:
        yield counts
    finally:
        for name, original in originals.items():
            setattr(dist, name, original)


def see(reference: Natively, ranks: Sequence[Natively], right: Sequence[Natively]) -> dict[str, bool]:
    """Which baselines see a difference between the reference and a candidate.

    Args:
        reference: on one device.
        ranks: of the candidate.
        right: of the candidate without its bug, whose collectives are counted.
    """
    names = ranks[0].parameters
    layout = find_layout(
        reference.parameters, {name: {i: rank.parameters[name] for i, rank in enumerate(ranks)} for name in names}
    )
    alignment = Alignment(
        reference=reference.records,
        ranks=[rank.records for rank in ranks],
        layout=layout,
        axes=Axes(sizes={"tp": len(ranks)}),
    )
    kinds = {Phase.GRADIENT, Phase.UPDATE}
    last = max(key.step for key in reference.records.tensors)
    missing = any(rank.records.missing != reference.records.missing for rank in ranks)

    def differs(phases: set[Phase], close: Callable[[Held], bool], *, steps: range = range(last + 1)) -> bool:
        return any(not close(held) for held in _pairs(alignment, phases, steps))

    return {
        "loss": differs({Phase.LOSS}, _allclose(1e-5, 1e-8)),
        "allclose": missing or differs(kinds, _allclose(1e-5, 1e-8)),
        "1e-2": missing or differs(kinds, _allclose(1e-2, 1e-2)),
        "1e-5": missing or differs(kinds, _allclose(1e-5, 1e-5)),
        "parameters": differs({Phase.UPDATE}, _allclose(1.3e-6, 1e-5), steps=range(last, last + 1)),
        "counts": [rank.collectives for rank in ranks] != [rank.collectives for rank in right],
        "rel. norm": missing or differs(kinds, _norm_close),
    }


def _pairs(alignment: Alignment, phases: set[Phase], steps: range) -> Iterator[Held]:
    keys: dict[Key, None] = dict.fromkeys(
        key for records in alignment.ranks for key in records.tensors if key.phase in phases and key.step in steps
    )
    for key in keys:
        aligned = alignment.of(key)
        if aligned is not None:
            yield from aligned.held.values()


def _allclose(rtol: float, atol: float) -> Callable[[Held], bool]:
    return lambda held: (
        held.actual.shape == held.expected.shape and torch.allclose(held.actual, held.expected, rtol=rtol, atol=atol)
    )


def _norm_close(held: Held) -> bool:
    error = (held.actual - held.expected).norm() / held.expected.norm().clamp_min(1e-30)
    return bool(error <= EPSILONS * torch.finfo(torch.float32).eps)
