"""Roots before pollution: which findings are first causes, and which only follow from them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from shardproof.proving.records import ACTIVATIONS, Phase

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shardproof.proving.findings import Finding


def mark_roots(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Mark those that are not ok although nothing before them was wrong that they follow from.

    A wrong activation or loss pollutes all that comes after it. A wrong gradient pollutes its own parameter's update,
    the norm, and all of the following steps; not the other gradients.
    """
    marked = []
    polluted_from: tuple[int, Phase | None] | None = None
    wrong_gradients: set[tuple[int, str]] = set()
    for finding in findings:
        key = finding.key
        if finding.verdict.ok:
            marked.append(finding)
            continue
        parameter = key.name.partition("/")[0]
        follows = polluted_from is not None and (polluted_from[1] is not None or key.step > polluted_from[0])
        if key.phase in (Phase.NORM, Phase.CLIPPED, Phase.STATE, Phase.UPDATE):
            same_step = {name for step, name in wrong_gradients if step == key.step}
            follows = follows or parameter in same_step or (key.phase is Phase.NORM and bool(same_step))
            follows = follows or "gradient norm" in same_step
        marked.append(replace(finding, root=not follows))
        if key.phase in (Phase.GRADIENT, Phase.NORM, Phase.UPDATE):
            wrong_gradients.add((key.step, parameter))
        if polluted_from is None or (polluted_from[1] is None and key.phase in ACTIVATIONS | {Phase.LOSS}):
            polluted_from = (key.step, key.phase if key.phase in ACTIVATIONS | {Phase.LOSS} else None)
    return tuple(marked)
