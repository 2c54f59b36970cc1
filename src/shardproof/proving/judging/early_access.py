"""Asynchronous collectives and messages whose results were used, or inputs changed, before the wait.

Such a program races: simulated ranks go on with the values that they would have had, so nothing else shows it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shardproof.proving.cause import Cause, CauseKind, Mend
from shardproof.proving.findings import Finding, Verdict
from shardproof.proving.records import Key, Phase

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from shardproof.proving.records import Records
    from shardproof.worlds.early_access import EarlyAccess


def conclude_early_accesses(runs: Iterable[Sequence[Records]]) -> tuple[Finding, ...]:
    """One finding for each call whose result or input was accessed before the wait, in the order of the calls.

    Args:
        runs: the records of each rank, for each run; the same access in several runs or steps is one finding.
    """
    found: dict[tuple[str, str, bool], tuple[int, EarlyAccess, set[int]]] = {}
    for ranks in runs:
        for rank, records in enumerate(ranks):
            for step, access in records.early_accesses:
                known = found.setdefault((access.call_line, access.access_line, access.of_input), (step, access, set()))
                known[2].add(rank)
    return tuple(_conclude(step, access, ranks) for step, access, ranks in found.values())


def _conclude(step: int, access: EarlyAccess, ranks: set[int]) -> Finding:
    kind = CauseKind.CHANGED_BEFORE_WAIT if access.of_input else CauseKind.USED_BEFORE_WAIT
    return Finding(
        key=Key(step, Phase.COLLECTIVES, access.call),
        verdict=Verdict.WRONG,
        cause=Cause(kind=kind, mend=Mend.WAIT, early_access=access),
        ranks=tuple(sorted(ranks)),
        root=True,
    )
