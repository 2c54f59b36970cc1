"""Runs: what both sides are to carry out, and on which ranks; small enough to be sent to each process."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from shardproof.exact import ExactArithmetic
from shardproof.proving.axes import Axes

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from shardproof.proving.running.models import Precision
    from shardproof.proving.running.segments import Cuts


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """One run in exact arithmetic for each seed, and one in ordinary arithmetic for each precision.

    Attributes:
        mesh: the sizes of the mesh's axes by name, in order.
        data_axes: those along which each rank gets rows of the batch of its own, with `parallelize`.
        build_seed: seeds the building of the model and its parameters' values.
        seeds: of the exact runs: prime, oracles and residues.
        native: precisions of the ordinary runs.
        dtypes: of the entries of the state as the user's model is built.
        cuts: the activations that are cut; see `segments.py`.
        fresh: parameters and optimizer state start each step from fresh residues.
        draws: initial values and dropout masks are looked at too, from the build seed.
        batch: a digest of the step's batch, which each process has to load the same.
    """

    mesh: Mapping[str, int]
    data_axes: tuple[str, ...] = ()
    build_seed: int = 0
    seeds: tuple[int, ...] = ()
    native: tuple[Precision, ...] = ()
    dtypes: Mapping[str, torch.dtype] = field(default_factory=dict)
    cuts: Cuts = frozenset()
    fresh: bool = True
    draws: bool = False
    batch: str = ""

    @property
    def axes(self) -> Axes:
        """The mesh as numbers."""
        return Axes(sizes=self.mesh, data=self.data_axes)

    @property
    def size(self) -> int:
        """How many ranks."""
        return self.axes.size

    def contexts(self) -> list[ExactArithmetic]:
        """An exact arithmetic for each seed; ranks that are threads share them."""
        return [ExactArithmetic(seed=seed, random="oracle") for seed in self.seeds]
