"""Suggestions: the entries of a plan that would mend what is wrong, where the causes say so."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from shardproof.proving.cause import Mend
from shardproof.proving.records import Phase

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shardproof.proving.findings import Finding

_LAYER = re.compile(r"(?<![^.])\d+(?![^.])")
# transformers' style for a parameter that every rank holds, and whose gradient each rank has a part of.
SUMS_GRADIENT = "replicated_with_grad_allreduce"


def suggest_entries(roots: Iterable[Finding]) -> dict[str, str]:
    """Styles by pattern of module names; empty unless each first cause is a gradient that lacks an all-reduce."""
    entries: dict[str, str] = {}
    for finding in roots:
        lacking = finding.cause is not None and finding.cause.mend is Mend.ALL_REDUCE_GRADIENT
        if finding.key.phase is not Phase.GRADIENT or not lacking:
            return {}
        entries[_LAYER.sub("*", finding.key.name.rpartition(".")[0])] = SUMS_GRADIENT
    return entries
