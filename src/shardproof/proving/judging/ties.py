"""Ties: one parameter of the reference that the candidate holds as two, each with a gradient of its own."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from shardproof.proving.cause import Cause, CauseKind, Mend
from shardproof.proving.judging.layout import PADDING
from shardproof.proving.records import OF_PARAMETERS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from shardproof.proving.findings import Finding
    from shardproof.proving.judging.layout import Layout


def find_untied(layout: Layout) -> dict[str, str]:
    """Of each of the candidate's parameters that holds elements which another one holds too, the other one's name.

    Two stages of a pipeline may hold one tied parameter under two names, and a right sharding sums their gradients: so
    this is no fault by itself, and explains one.
    """
    of_model = [name for name in layout.element_index if not layout.is_flat(name)]
    spans = Counter(span for name in of_model for span in layout.spans(name))
    names = [name for name in of_model if any(spans[span] > 1 for span in layout.spans(name))]
    if not names:
        return {}
    owner = torch.full((layout.state.length,), PADDING, dtype=torch.int64)
    found: dict[str, str] = {}
    for number, name in enumerate(names):
        for indices in layout.element_index[name].values():
            held = indices[indices != PADDING]
            for other in owner[held].unique().tolist():
                if other not in (PADDING, number):
                    found.setdefault(name, names[other])
                    found.setdefault(names[other], name)
            owner[held] = number
    return found


def explain_untied(findings: Iterable[Finding], layout: Layout) -> tuple[Finding, ...]:
    """The findings, with the cause UNTIED where nothing else explains a gradient and what comes of it."""
    untied = find_untied(layout)
    return tuple(_explain(finding, untied) for finding in findings)


def _explain(finding: Finding, untied: Mapping[str, str]) -> Finding:
    other = untied.get(finding.key.name.partition("/")[0])
    unexplained = finding.cause is not None and finding.cause.kind is CauseKind.UNEXPLAINED
    if other is None or not unexplained or finding.key.phase not in OF_PARAMETERS:
        return finding
    return replace(finding, cause=Cause(kind=CauseKind.UNTIED, parameter=other, mend=Mend.TIE))
