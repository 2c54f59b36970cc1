"""Rounds: both sides of a proof carried out, on one device and on all ranks, from the same full state."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from shardproof.errors import CannotRunError
from shardproof.exact.errors import ExactArithmeticError
from shardproof.proving.findings import Native
from shardproof.proving.judging.alignment import Alignment
from shardproof.proving.judging.bounds import over_segments
from shardproof.proving.judging.layout import find_layout
from shardproof.proving.judging.outcomes import compare_exactly
from shardproof.proving.running.models import Precision, build_as_it_is, name_dtypes, own_dtypes, precisions_of
from shardproof.proving.running.one_rank import draw_parameters, run_reference
from shardproof.proving.running.onethread import one_thread_if_small
from shardproof.proving.running.ranks import run_in_processes, run_in_threads
from shardproof.worlds.spawned import SpawnedWorld
from shardproof.worlds.threaded import ThreadedWorld

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch
    from torch import Tensor, nn

    from shardproof.exact import ExactArithmetic
    from shardproof.proving.judging.layout import Layout
    from shardproof.proving.judging.outcomes import Outcome
    from shardproof.proving.records import Key
    from shardproof.proving.running.one_rank import Side
    from shardproof.proving.running.ranks import Reload
    from shardproof.proving.running.request import Runs
    from shardproof.proving.running.subject import Subject


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """Both sides of the same runs."""

    reference: Side
    ranks: Sequence[Side]
    primes: tuple[int, ...]
    runs: Runs
    own_training: bool
    dtypes: Mapping[str, torch.dtype]

    @property
    def own_precision(self) -> Precision:
        """That of the runs in the user's own dtypes: float64 where these are it."""
        return Precision.OWN if Precision.OWN in self.reference.native else Precision.FLOAT64

    @property
    def native(self) -> Native:
        """What was run in the user's own dtypes."""
        return Native(
            dtype=name_dtypes(self.dtypes),
            failed=self.reference.failed,
            collectives=0 if self.reference.failed else len(self.ranks[0].native[self.own_precision].collectives),
        )

    @property
    def places(self) -> Mapping[str, str]:
        """Which line of the first rank's program called a module."""
        side = self.ranks[0]
        return next(iter([*side.trials, *side.native.values()])).places

    @property
    def names(self) -> Sequence[str]:
        """The candidate's parameters."""
        return list(self.ranks[0].parameters)

    def find_layout(self) -> Layout:
        """Where each rank's elements lie in the full state.

        Raises:
            CannotRunError: the candidate did not start from the full state.
        """
        held = {name: {rank: side.parameters[name] for rank, side in enumerate(self.ranks)} for name in self.names}
        return find_layout(self.reference.parameters, held)

    def judge(self, layout: Layout) -> list[dict[Key, Outcome]]:
        """What each exact run shows, side by side."""
        trials = [
            Alignment(
                reference=self.reference.trials[trial],
                ranks=[side.trials[trial] for side in self.ranks],
                layout=layout,
                axes=self.runs.axes,
                own_training=self.own_training,
            )
            for trial in range(len(self.primes))
        ]
        return [
            over_segments(compare_exactly(alignment, prime), self.runs.cuts, fresh=self.runs.fresh)
            for alignment, prime in zip(trials, self.primes, strict=True)
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sides:
    """How the two sides are run."""

    subject: Subject
    spawn: bool
    timeout: float
    reload: Reload | None

    def run(self, runs: Runs, *, natively: bool = False) -> Round:
        """Both sides from the same full state, and in ordinary arithmetic too if asked.

        Raises:
            CannotRunError: a side cannot be built or run.
        """
        model = build_as_it_is(self.subject.step, runs.build_seed)
        dtypes = own_dtypes(model)
        model.double()
        draw_parameters(model, runs.build_seed)
        state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        # The candidate gets contexts of its own: what the reference lifts or tags is not known to it.
        contexts = runs.contexts()
        native = precisions_of(dtypes) if natively else ()
        with one_thread_if_small(state):
            reference = self._reference(model, replace(runs, native=native), contexts)
            native = tuple(one for one in (Precision.FLOAT64, Precision.OWN) if one in reference.native)
            ranks = self._ranks(state, replace(runs, native=native, dtypes=dtypes))
        return Round(
            reference=reference,
            ranks=ranks,
            primes=tuple(context.prime for context in contexts),
            runs=runs,
            own_training=self.subject.candidate is not None,
            dtypes=dtypes,
        )

    def _reference(self, model: nn.Module, runs: Runs, contexts: Sequence[ExactArithmetic]) -> Side:
        try:
            return run_reference(self.subject.step, model, runs, contexts)
        except Exception as error:
            if isinstance(error, CannotRunError):
                raise
            instead = (
                "; numeric=True, --numeric, compares its numbers instead, and proves nothing"
                if isinstance(error, ExactArithmeticError)
                else ""
            )
            told = f"{type(error).__name__}: {error}{instead}"
            raise CannotRunError(f"the step cannot be run on one device: {told}") from error

    def _ranks(self, state: Mapping[str, Tensor], runs: Runs) -> Sequence[Side]:
        if self.spawn:
            world = SpawnedWorld(size=runs.size, timeout=self.timeout)
            return run_in_processes(world, self.reload or self.subject, state, runs)
        return run_in_threads(ThreadedWorld(size=runs.size, timeout=self.timeout), self.subject, state, runs)
