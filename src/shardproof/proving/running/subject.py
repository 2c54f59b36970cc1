"""What is proved: a step, and what the user really runs in its place on every rank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from shardproof.errors import CannotRunError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.distributed.device_mesh import DeviceMesh
    from torch.nn import Module

    from shardproof.proving.running.candidate import Run
    from shardproof.proving.step import Step

    Parallelize = Callable[[Module, DeviceMesh], Module]
    Candidate = Callable[[Run], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A step and its candidate; where both can be pickled, so can this.

    Attributes:
        step: what a training step is, on one device.
        parallelize: `parallelize(model, mesh) -> model`, the user's own sharding; the prover takes the steps.
        candidate: instead, `candidate(run)`, the user's own training step; see `shardproof.proving.running.candidate`.
    """

    step: Step
    parallelize: Parallelize | None = None
    candidate: Candidate | None = None

    def __post_init__(self) -> None:
        if (self.parallelize is None) == (self.candidate is None):
            raise CannotRunError("prove needs exactly one of parallelize(model, mesh) and candidate(run)")

    def __call__(self) -> Subject:
        """Itself: a subject that can be pickled is its own way to another process."""
        return self
