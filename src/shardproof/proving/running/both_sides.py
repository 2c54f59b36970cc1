"""Both sides: the reference on one device and the candidate on all ranks, from the same full state.

The ranks are threads that take turns, or processes, spawned or launched: the same per-rank code and the same results.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import TYPE_CHECKING

from shardproof.errors import CannotRunError
from shardproof.exact.algebra.reference_constants import ReferenceConstants
from shardproof.exact.errors import ExactArithmeticError
from shardproof.proving.records import BothSides, Precision
from shardproof.proving.running.batch import require_same_batch
from shardproof.proving.running.candidate import run_candidate
from shardproof.proving.running.fsdp_division import divided_as_in
from shardproof.proving.running.models import (
    IN_FLOAT64,
    bits_of,
    build_model,
    extra_state,
    name_dtypes,
    own_dtypes,
    precisions_of,
)
from shardproof.proving.running.one_rank import run_parallelized, run_reference
from shardproof.proving.running.plan_entries import unmatched_entries_noted
from shardproof.proving.running.quiet import quiet_pytorch
from shardproof.proving.running.request import RunContext, Start
from shardproof.proving.running.start import start_exact, start_ordinary
from shardproof.proving.running.thread_count import one_thread_if_small
from shardproof.raised import describe_error
from shardproof.worlds.processgroup import ProcessGroupCommunicator
from shardproof.worlds.spawned import SpawnedWorld
from shardproof.worlds.threaded import ThreadedWorld

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shardproof.exact import ExactArithmetic
    from shardproof.proving.records import SideRecord
    from shardproof.proving.running.request import RunRequest
    from shardproof.proving.running.target import ProofTarget, Reload
    from shardproof.worlds.communicator import Communicator
    from shardproof.worlds.launched_runs import LaunchedRuns
    from shardproof.worlds.world import World


class Numbers(Enum):
    """Which runs in ordinary arithmetic are taken.

    OWN: in the user's own dtypes, of both sides, and of one device those that tell its rounding noise.
    FLOAT64: of both sides, and of one device in float32: they tell whether a difference is one of the functions.
    BOTH: where there are no runs in exact arithmetic, whose values tell the layout.
    """

    OWN = auto()
    FLOAT64 = auto()
    BOTH = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Runner:
    """Runs both sides.

    Attributes:
        target: the step and its candidate.
        spawn: the ranks are processes instead of threads.
        timeout: seconds after which ranks that make no progress are given up.
        reload: makes the target again in a rank's process; None to send the target itself.
        launched: the processes of a launcher, which are the ranks; this one is rank 0.
        jobs: in how many processes trials after the first may be taken side by side.
    """

    target: ProofTarget
    spawn: bool
    timeout: float
    reload: Reload | None
    launched: LaunchedRuns | None = None
    jobs: int = 1

    def run(self, request: RunRequest, numbers: Numbers | None = None) -> BothSides:
        """Take the runs that are requested, and if asked those in ordinary arithmetic, in precisions of the model.

        Raises:
            CannotRunError: a side cannot be built or run.
        """
        seed = request.build_seed
        model = build_model(self.target.step, seed)
        dtypes = own_dtypes(model)
        request = replace(request, dtypes=dtypes, extra=extra_state(model))
        exact = start_exact(model, seed) if request.seeds else Start()
        if request.seeds and numbers is not None:
            model = build_model(self.target.step, seed)
        ordinary = start_ordinary(model, seed) if numbers is not None else Start()
        del model  # every run builds one of its own
        # The ranks get arithmetics of their own: of what the reference lifts or tags, they are given its constants.
        arithmetics = request.make_arithmetics(exact.drawn.values())
        own = () if numbers in (None, Numbers.FLOAT64) else precisions_of(dtypes)
        in_float64 = IN_FLOAT64 if numbers in (Numbers.FLOAT64, Numbers.BOTH) else ()
        request = replace(request, native=tuple(dict.fromkeys((*in_float64, *own))))
        with quiet_pytorch(), one_thread_if_small(exact.state or ordinary.state):
            reference = self._run_reference(request, exact, ordinary, arithmetics)
            native = tuple(one for one in (Precision.FLOAT64, Precision.OWN) if one in reference.native)
            constants = ReferenceConstants.merged((exact.constants for exact in arithmetics), bits_of(dtypes.values()))
            request = replace(request, native=native, limits=tuple(exact.limits for exact in arithmetics))
            ranks = self._run_ranks(request, exact, ordinary, constants)
        return BothSides(
            reference=reference,
            ranks=ranks,
            axes=request.axes,
            primes=tuple(exact.prime for exact in arithmetics),
            cuts=tuple(request.cuts),
            fresh=request.fresh,
            own_training=self.target.candidate is not None or any(side.scheduled for side in ranks),
            dtype=name_dtypes(dtypes),
        )

    def _run_reference(
        self,
        request: RunRequest,
        exact: Start,
        ordinary: Start,
        arithmetics: Sequence[ExactArithmetic],
    ) -> SideRecord:
        context = RunContext(
            step=self.target.step, request=request, exact=exact, ordinary=ordinary, arithmetics=arithmetics
        )
        try:
            return run_reference(context)
        except Exception as error:
            if isinstance(error, CannotRunError):
                raise
            instead = (
                "; numeric=True, --numeric, compares its numbers instead, and proves nothing"
                if isinstance(error, ExactArithmeticError)
                else ""
            )
            raise CannotRunError(f"the step cannot be run on one device: {describe_error(error)}{instead}") from error

    def _run_ranks(
        self,
        request: RunRequest,
        exact: Start,
        ordinary: Start,
        constants: ReferenceConstants,
    ) -> list[SideRecord]:
        if self.spawn or self.launched is not None:
            processes = self.launched or SpawnedWorld(size=request.size, timeout=self.timeout)
            return run_in_processes(processes, self.reload or self.target, request, exact, ordinary, constants)
        world = ThreadedWorld(size=request.size, timeout=self.timeout)
        return run_in_threads(world, self.target, request, exact, ordinary, constants)


def run_in_threads(
    world: ThreadedWorld,
    target: ProofTarget,
    request: RunRequest,
    exact: Start,
    ordinary: Start,
    constants: ReferenceConstants | None = None,
) -> list[SideRecord]:
    """What each rank computed, in rank order.

    Args:
        world: of the ranks.
        target: what they run.
        request: which runs.
        exact: what exact runs start from; what is drawn of it is a variable in exact arithmetic.
        ordinary: what ordinary runs start from.
        constants: those of the one device.

    Raises:
        CannotRunError: a rank failed or came to no end.
    """
    context = RunContext(
        step=target.step,
        request=request,
        exact=exact,
        ordinary=ordinary,
        arithmetics=request.make_arithmetics(exact.drawn.values(), constants),
    )
    with divided_as_in(request.dtypes.values()), unmatched_entries_noted() as entries:
        sides = world.run(_run_rank, target, context)
    return [_with_unmatched(side, entries) for side in sides]


def run_in_processes(
    world: World,
    reload: Reload,
    request: RunRequest,
    exact: Start,
    ordinary: Start,
    constants: ReferenceConstants | None = None,
) -> list[SideRecord]:
    """What each rank computed, in rank order; `reload` is called in each process.

    Raises:
        CannotRunError: `reload` cannot be sent to another process; a rank failed, died or came to no end.
    """
    return world.run(_run_process, reload, request, exact, ordinary, constants)


def _run_process(
    comm: Communicator,
    reload: Reload,
    request: RunRequest,
    exact: Start,
    ordinary: Start,
    constants: ReferenceConstants | None,
) -> SideRecord:
    """One rank in a process of its own, which makes its step and its arithmetics itself."""
    assert isinstance(comm, ProcessGroupCommunicator)
    target = reload()
    require_same_batch(target.step, request.batch)
    comm.beat()
    context = RunContext(
        step=target.step,
        request=request,
        exact=exact,
        ordinary=ordinary,
        arithmetics=request.make_arithmetics(exact.drawn.values(), constants),
        heartbeat=comm.beat,
    )
    fitted = divided_as_in(request.dtypes.values())
    one_thread = one_thread_if_small(exact.state or ordinary.state)
    with quiet_pytorch(), one_thread, fitted, unmatched_entries_noted() as entries:
        side = _run_rank(comm, target, context)
    return _with_unmatched(side, entries)


def _with_unmatched(side: SideRecord, entries: Sequence[str]) -> SideRecord:
    return replace(side, unmatched=tuple(dict.fromkeys((*side.unmatched, *entries))))


def _run_rank(comm: Communicator, target: ProofTarget, context: RunContext) -> SideRecord:
    assert comm.size == context.request.size
    if target.parallelize is not None:
        return run_parallelized(context, target.parallelize)
    assert target.candidate is not None
    return run_candidate(context, target.candidate)
