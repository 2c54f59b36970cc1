"""Each rank shifts its logits by its own largest one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.mutants.bug import Bug
from shardproof.proving.cause import CauseKind

if TYPE_CHECKING:
    from torch import Tensor


def largest(logits: Tensor) -> Tensor:
    """The largest of this rank's logits."""
    return logits.detach().amax(-1, keepdim=True)


BUG = Bug(
    id="M30",
    name="local-max",
    phase="F",
    seen_in="Megatron-LM PR#7466",
    line="largest",
    change=largest,
    root="output loss",
    cause=CauseKind.OWN_MAXIMUM,
)
