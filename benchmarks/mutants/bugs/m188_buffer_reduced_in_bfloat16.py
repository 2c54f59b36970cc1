"""A flat buffer of float32 gradients is reduced in bfloat16."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.models.zero import Zero, ZeroLines, by_parts
from shardproof.proving.cause import CauseKind

if TYPE_CHECKING:
    from benchmarks.mutants.configuration import Configuration


WRONG = ZeroLines(sent=lambda flat: flat.to(torch.bfloat16))


def plant(planted: bool) -> Configuration:
    return by_parts("a buffer in its own dtype", Zero(lines=WRONG if planted else ZeroLines()), 2)


BUG = Bug(
    id="M188",
    name="buffer-reduced-in-bfloat16",
    phase="N",
    seen_in="pytorch#186998",
    root="gradient *",
    cause=CauseKind.LOWER_DTYPE_COLLECTIVE,
    plant=plant,
)
