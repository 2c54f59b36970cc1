"""`prove`: run both sides in exact arithmetic, several times, and say of every tensor what that shows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from shardproof.errors import CannotRunError
from shardproof.proving.alignment import Alignment
from shardproof.proving.axes import Axes, make_axes
from shardproof.proving.conclude import conclude
from shardproof.proving.findings import Proof
from shardproof.proving.judge import judge
from shardproof.proving.layout import find_layout
from shardproof.proving.precision import Precision
from shardproof.proving.ranks import run_in_processes, run_in_threads
from shardproof.proving.rounding import measure_rounding
from shardproof.proving.runs import Runs
from shardproof.proving.sides import build_model, draw_parameters, run_reference
from shardproof.proving.subject import Subject
from shardproof.worlds.spawned import SpawnedWorld
from shardproof.worlds.threaded import ThreadedWorld
from shardproof.worlds.world import DEFAULT_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor, nn

    from shardproof.exact import ExactArithmetic
    from shardproof.proving.layout import Layout
    from shardproof.proving.ranks import Reload
    from shardproof.proving.records import Key
    from shardproof.proving.rounding import Rounding
    from shardproof.proving.sides import Side
    from shardproof.proving.step import Step
    from shardproof.proving.subject import Candidate, Parallelize


def prove(
    step: Step,
    *,
    parallelize: Parallelize | None = None,
    candidate: Candidate | None = None,
    devices: int | None = None,
    mesh: Mapping[str, int] | None = None,
    data_axes: Sequence[str] | None = None,
    trials: int = 3,
    seed: int = 0,
    spawn: bool = False,
    timeout: float = DEFAULT_TIMEOUT,
    reload: Reload | None = None,
) -> Proof:
    """Prove that a sharded training step is still the single-device step.

    Args:
        step: what a training step is.
        parallelize: `parallelize(model, mesh) -> model`, the user's own sharding. Along data axes each rank gets
            its rows of the batch, split along dim 0, and the sharding is to average the gradients.
        candidate: instead, `candidate(run)`: the user's own training step, with its own split of the batch, averaging
            of the loss, clipping and update; see `shardproof.proving.candidate`.
        devices: how many ranks, on one axis `tp`.
        mesh: instead, the sizes of the mesh's axes by name: {"dp": 2, "tp": 2}.
        data_axes: of the mesh, by default those with `dp` or `data` in their name.
        trials: how many times, each with another prime, other inputs and other oracles.
        seed: of all of them.
        spawn: run each rank in a process of its own, instead of simulating them in this one.
        timeout: seconds after which ranks that get nowhere are given up.
        reload: what a spawned rank calls for its `Subject`, where it cannot be pickled: a function at the top of a
            module, or an object of such a class.

    Raises:
        CannotRunError: a side cannot be built or run.
    """
    axes = make_axes(devices=devices, mesh=mesh, data_axes=data_axes)
    if trials < 1:
        raise CannotRunError(f"trials is {trials}; give at least 1")
    subject = Subject(step=step, parallelize=parallelize, candidate=candidate)
    runs = Runs(
        mesh=axes.sizes,
        data_axes=axes.data,
        build_seed=seed,
        seeds=tuple(seed * 1000 + trial for trial in range(trials)),
        fresh=candidate is None,
    )
    sides = _Sides(subject=subject, spawn=spawn, timeout=timeout, reload=reload)
    round_ = sides.run(runs, reference_precisions=(Precision.FLOAT64, Precision.FLOAT32), rank_precisions=(Precision.FLOAT64,))
    layout = find_layout(
        round_.reference.parameters,
        {name: {rank: side.parameters[name] for rank, side in enumerate(round_.ranks)} for name in round_.names},
    )
    outcomes = [
        judge(round_.align(trial, layout, own_training=candidate is not None), prime)
        for trial, prime in enumerate(round_.primes)
    ]
    return Proof(
        findings=conclude(outcomes, _rounding(round_, layout), own_training=candidate is not None),
        mesh=axes.sizes,
        data_axes=axes.data,
        trials=trials,
        primes=round_.primes,
        seeds=runs.seeds,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Round:
    """Both sides of the same runs."""

    reference: Side
    ranks: Sequence[Side]
    primes: tuple[int, ...]
    runs: Runs

    @property
    def names(self) -> Sequence[str]:
        """The candidate's parameters."""
        return list(self.ranks[0].parameters)

    def align(self, trial: int, layout: Layout, *, own_training: bool) -> Alignment:
        """One exact run, side by side."""
        return Alignment(
            reference=self.reference.trials[trial],
            ranks=[side.trials[trial] for side in self.ranks],
            layout=layout,
            axes=self.runs.axes,
            own_training=own_training,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sides:
    """How the two sides are run."""

    subject: Subject
    spawn: bool
    timeout: float
    reload: Reload | None

    def run(
        self, runs: Runs, *, reference_precisions: tuple[Precision, ...], rank_precisions: tuple[Precision, ...]
    ) -> _Round:
        """Both sides from the same full state.

        Raises:
            CannotRunError: a side cannot be built or run.
        """
        model = build_model(self.subject.step, runs.build_seed)
        draw_parameters(model, runs.build_seed)
        state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        # The candidate gets contexts of its own: what the reference lifts or tags is not known to it.
        contexts = runs.contexts()
        reference = self._reference(model, replace(runs, native=reference_precisions), contexts)
        ranks = self._ranks(state, replace(runs, native=rank_precisions))
        primes = tuple(context.prime for context in contexts)
        return _Round(reference=reference, ranks=ranks, primes=primes, runs=runs)

    def _reference(self, model: nn.Module, runs: Runs, contexts: Sequence[ExactArithmetic]) -> Side:
        try:
            return run_reference(self.subject.step, model, runs, contexts)
        except Exception as error:
            if isinstance(error, CannotRunError):
                raise
            raise CannotRunError(f"the step cannot be run on one device: {type(error).__name__}: {error}") from error

    def _ranks(self, state: Mapping[str, Tensor], runs: Runs) -> Sequence[Side]:
        if self.spawn:
            world = SpawnedWorld(size=runs.size, timeout=self.timeout)
            return run_in_processes(world, self.reload or self.subject, state, runs)
        return run_in_threads(ThreadedWorld(size=runs.size, timeout=self.timeout), self.subject, state, runs)


def _rounding(round_: _Round, layout: Layout) -> Callable[[Key], Rounding | None]:
    """Measures a tensor's difference in float64 against the reference's noise."""
    own = {name: {0: values} for name, values in round_.reference.parameters.items()}
    beside = round_.reference.native[Precision.FLOAT64]
    return partial(
        measure_rounding,
        candidate=Alignment(
            reference=beside,
            ranks=[side.native[Precision.FLOAT64] for side in round_.ranks],
            layout=layout,
            axes=round_.runs.axes,
        ),
        float32=Alignment(
            reference=beside,
            ranks=[round_.reference.native[Precision.FLOAT32]],
            axes=Axes(),
            layout=find_layout(round_.reference.parameters, own),
        ),
    )
