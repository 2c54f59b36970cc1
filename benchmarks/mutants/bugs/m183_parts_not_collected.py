"""Ranks do not gather what the others have updated: each goes on with its own part alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.models.zero import Zero, ZeroLines, by_parts
from shardproof.proving.cause import CauseKind

if TYPE_CHECKING:
    from torch import Tensor

    from benchmarks.mutants.configuration import Configuration


def alone(part: Tensor, before: Tensor, span: slice) -> Tensor:
    whole = before.clone()
    whole[span] = part
    return whole


WRONG = ZeroLines(collect=alone)


def plant(planted: bool) -> Configuration:
    return by_parts("updated parts gathered", Zero(stage=1, lines=WRONG if planted else ZeroLines()), 2)


BUG = Bug(
    id="M183",
    name="parts-not-collected",
    phase="U,R",
    seen_in="review: ZeRO by hand, elements that are never updated",
    root="updated parameter *",
    cause=CauseKind.NEVER_STEPPED,
    plant=plant,
)
