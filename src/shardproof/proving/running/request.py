"""Requests: which runs both sides are to take. A request is small enough to be sent to each rank's process."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from shardproof.exact import ExactArithmetic
from shardproof.exact.engine.input_residues import KnownNumbers
from shardproof.proving.axes import Axes
from shardproof.proving.running.capture import Recorder
from shardproof.proving.running.clipping import ElementNumbers
from shardproof.worlds.processgroup import say_nothing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import torch
    from torch import Tensor

    from shardproof.exact.algebra.reference_constants import ReferenceConstants
    from shardproof.proving.records import Cuts, Precision, Records, Told
    from shardproof.proving.step import Step


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """One run in exact arithmetic for each seed, and one in ordinary arithmetic for each precision.

    Attributes:
        mesh: the sizes of the mesh's axes by name, in order.
        data_axes: those along which each rank gets rows of the batch of its own, with `parallelize`.
        build_seed: seeds the building of the model and its parameters' values.
        seeds: of the exact runs: prime, oracles and residues.
        native: precisions of the ordinary runs.
        traced: the ranks' collectives are recorded.
        dtypes: of the entries of the state as the user's model is built.
        extra: what the modules of the user's model put into the state dict that is no tensor.
        cuts: the activations that are cut; see `segments.py`.
        fresh: parameters and optimizer state start each step from fresh residues.
        told: by rank, what the first runs have told; None in their request.
        draws: initial values and dropout masks are recorded too, as the build seed gives them.
        batch: a digest of the step's batch, which each process has to load the same.
        limits: to which the reference limited numbers in each exact run (`ExactArithmetic.limits`); None for itself.
    """

    mesh: Mapping[str, int]
    data_axes: tuple[str, ...] = ()
    build_seed: int = 0
    seeds: tuple[int, ...] = ()
    native: tuple[Precision, ...] = ()
    traced: bool = False
    dtypes: Mapping[str, torch.dtype] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    cuts: Cuts = field(default_factory=dict)
    fresh: bool = True
    told: tuple[Told, ...] | None = None
    draws: bool = False
    batch: str = ""
    limits: tuple[frozenset[int], ...] | None = None

    @property
    def axes(self) -> Axes:
        """The mesh as numbers."""
        return Axes(sizes=self.mesh, data=self.data_axes)

    @property
    def size(self) -> int:
        """How many ranks."""
        return self.axes.size

    @property
    def is_first(self) -> bool:
        """Whether its runs are to tell the layout, and what else further ones need."""
        return self.told is None

    def told_to(self, rank: int) -> Told | None:
        """What is known of a rank; None before its first run."""
        return None if self.told is None else self.told[rank]

    def make_arithmetics(
        self, variables: Iterable[Tensor] = (), reference: ReferenceConstants | None = None
    ) -> list[ExactArithmetic]:
        """An exact arithmetic for each seed; ranks that are threads share them.

        Args:
            variables: the tensors in float64 that the prover has drawn: parameters, frozen ones too, and buffers.
            reference: of the ranks' arithmetics, the constants of the one device.
        """
        known = KnownNumbers.of(variables)
        limits = self.limits or (None,) * len(self.seeds)
        return [
            ExactArithmetic(
                seed=seed,
                variables=known,
                reference=reference,
                random="oracle",
                leaving="follow",
                limits=limited,
                record_cuts=False,
            )
            for seed, limited in zip(self.seeds, limits, strict=True)
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What runs start from, in float64.

    Attributes:
        state: the full state dict.
        drawn: the buffers that the prover has drawn, those too that no state dict holds; of exact runs every parameter.
    """

    state: Mapping[str, Tensor] = field(default_factory=dict)
    drawn: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContext:
    """What one device or rank is given to carry out a request.

    Attributes:
        step: what a training step is.
        request: the runs to take.
        exact: what the exact runs start from: all values of parameters are different.
        ordinary: what the ordinary runs start from: near the user's own initial values.
        arithmetics: one for each of the request's seeds.
        beside: of the reference's ordinary runs, one beside which those that are requested are measured.
        heartbeat: called for every tensor recorded.
        known: the numbers of the elements of the full state, found once for all ranks that are threads.
    """

    step: Step
    request: RunRequest
    exact: Start = field(default_factory=Start)
    ordinary: Start = field(default_factory=Start)
    arithmetics: Sequence[ExactArithmetic] = ()
    beside: Records | None = None
    heartbeat: Callable[[], None] = say_nothing
    known: ElementNumbers = field(default_factory=ElementNumbers)

    def start_of(self, recorder: Recorder) -> Start:
        """What a recorder's run starts from."""
        return self.ordinary if recorder.exact is None else self.exact

    def make_recorder(self, exact: ExactArithmetic | None = None) -> Recorder:
        """A recorder for one run."""
        return Recorder(exact=exact, heartbeat=self.heartbeat)
