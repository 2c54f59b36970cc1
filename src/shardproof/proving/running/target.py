"""Proof target: a training step, and what the user runs in its place on every rank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from shardproof.errors import CannotRunError

if TYPE_CHECKING:
    from collections.abc import Callable

    from shardproof.proving.reduction import Reduction
    from shardproof.proving.running.candidate import Candidate
    from shardproof.proving.running.models import Parallelize
    from shardproof.proving.step import Step

    Reload = Callable[[], "ProofTarget"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProofTarget:
    """A step and its candidate; it can be pickled if both of them can.

    Attributes:
        step: what a training step is, on one device.
        parallelize: `parallelize(model, mesh) -> model`, the user's own sharding, or a schedule of a pipeline; the
            prover takes the steps.
        candidate: instead, `candidate(run)`, the user's own training step; see `shardproof.proving.running.candidate`.
        reduction: how the step was made smaller than what it stands for; None where it is the user's own.
    """

    step: Step
    parallelize: Parallelize | None = None
    candidate: Candidate | None = None
    reduction: Reduction | None = None

    def __post_init__(self) -> None:
        if (self.parallelize is None) == (self.candidate is None):
            raise CannotRunError("prove needs exactly one of parallelize(model, mesh) and candidate(run)")
        if self.parallelize is not None and not callable(self.parallelize):
            raise CannotRunError(
                f"parallelize is {type(self.parallelize).__name__}; needed is a function. For a plan: "
                "lambda model, mesh: parallelize_module(model, mesh, plan)"
            )
        if self.candidate is not None and not callable(self.candidate):
            raise CannotRunError(f"candidate is {type(self.candidate).__name__}; needed is a function: candidate(run)")

    def __call__(self) -> ProofTarget:
        """Itself: a target that can be pickled is its own `reload` in another process."""
        return self
