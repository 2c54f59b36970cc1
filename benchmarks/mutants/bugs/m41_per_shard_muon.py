"""A matrix optimizer takes each shard for a matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.mutants.bug import Bug

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


def matrix_step(_shard: Tensor, gradient: Tensor, direction: Callable[[Tensor], Tensor]) -> Tensor:
    """The direction of the rank's own rows."""
    return direction(gradient)


BUG = Bug(
    id="M41",
    name="per-shard-muon",
    phase="U",
    seen_in="DeepSpeed#8437",
    line="matrix_step",
    change=matrix_step,
    root="updated parameter weight",
    unexplained=(
        "a matrix optimizer's step of a shard is another function of the gradient, which records of it do not tell"
    ),
    training="matrix optimizer",
)
