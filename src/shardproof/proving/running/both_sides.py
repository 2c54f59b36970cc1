"""Both sides: the reference on one device and the candidate on all ranks, from the same full state.

The ranks are threads that take turns, or processes, spawned or launched: the same per-rank code and the same results.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from shardproof.errors import CannotRunError
from shardproof.exact.algebra.reference_constants import ReferenceConstants
from shardproof.exact.errors import ExactArithmeticError
from shardproof.proving.records import BothSides, Precision
from shardproof.proving.running.batch import require_same_batch
from shardproof.proving.running.candidate import run_candidate
from shardproof.proving.running.fsdp_division import divided_as_in
from shardproof.proving.running.models import (
    bits_of,
    build_model,
    draw_buffers,
    draw_parameters,
    extra_state,
    name_dtypes,
    nudge_parameters,
    own_dtypes,
    precisions_of,
    tensors_of_state,
)
from shardproof.proving.running.one_rank import run_parallelized, run_reference
from shardproof.proving.running.plan_entries import unmatched_entries_noted
from shardproof.proving.running.quiet import quiet_pytorch
from shardproof.proving.running.request import RunContext
from shardproof.proving.running.thread_count import one_thread_if_small
from shardproof.raised import describe_error
from shardproof.worlds.processgroup import ProcessGroupCommunicator
from shardproof.worlds.spawned import SpawnedWorld
from shardproof.worlds.threaded import ThreadedWorld

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from shardproof.exact import ExactArithmetic
    from shardproof.proving.records import SideRecord
    from shardproof.proving.running.request import RunRequest
    from shardproof.proving.running.target import ProofTarget, Reload
    from shardproof.worlds.communicator import Communicator
    from shardproof.worlds.launched_runs import LaunchedRuns
    from shardproof.worlds.world import World


_NO_VALUES: Mapping[str, Tensor] = MappingProxyType({})


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

    def run(self, request: RunRequest, *, natively: bool = False) -> BothSides:
        """Take the runs that are requested, and if asked those in ordinary arithmetic, in the precisions of the model.

        Raises:
            CannotRunError: a side cannot be built or run.
        """
        model = build_model(self.target.step, request.build_seed)
        dtypes = own_dtypes(model)
        model.double()
        nudge_parameters(model, request.build_seed)
        initial = {name: tensor.clone() for name, tensor in tensors_of_state(model).items()}
        draw_parameters(model, request.build_seed)
        drawn = draw_buffers(model, request.build_seed)
        initial |= {name: values for name, values in drawn.items() if name in initial}
        state = {name: tensor.clone() for name, tensor in tensors_of_state(model).items()}
        # Of the same memory: neither is written into.
        drawn |= {name: state[name] if name in state else x.detach().clone() for name, x in model.named_parameters()}
        request = replace(request, dtypes=dtypes, extra=extra_state(model))
        del model  # every run builds one of its own
        # The ranks get arithmetics of their own: of what the reference lifts or tags, they are given its constants.
        arithmetics = request.make_arithmetics(drawn.values())
        native = precisions_of(dtypes) if natively else ()
        with quiet_pytorch(), one_thread_if_small(state):
            reference = self._run_reference(replace(request, native=native), state, initial, arithmetics)
            native = tuple(one for one in (Precision.FLOAT64, Precision.OWN) if one in reference.native)
            constants = ReferenceConstants.merged((exact.constants for exact in arithmetics), bits_of(dtypes.values()))
            request = replace(request, native=native, limits=tuple(exact.limits for exact in arithmetics))
            ranks = self._run_ranks(request, state, drawn, initial, constants)
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
        state: Mapping[str, Tensor],
        initial: Mapping[str, Tensor],
        arithmetics: Sequence[ExactArithmetic],
    ) -> SideRecord:
        context = RunContext(
            step=self.target.step, request=request, state=state, initial=initial, arithmetics=arithmetics
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
        state: Mapping[str, Tensor],
        drawn: Mapping[str, Tensor],
        initial: Mapping[str, Tensor],
        constants: ReferenceConstants,
    ) -> list[SideRecord]:
        if self.spawn or self.launched is not None:
            processes = self.launched or SpawnedWorld(size=request.size, timeout=self.timeout)
            return run_in_processes(processes, self.reload or self.target, request, state, drawn, initial, constants)
        world = ThreadedWorld(size=request.size, timeout=self.timeout)
        return run_in_threads(world, self.target, request, state, drawn, initial, constants)


def run_in_threads(
    world: ThreadedWorld,
    target: ProofTarget,
    request: RunRequest,
    state: Mapping[str, Tensor],
    drawn: Mapping[str, Tensor] = _NO_VALUES,
    initial: Mapping[str, Tensor] = _NO_VALUES,
    constants: ReferenceConstants | None = None,
) -> list[SideRecord]:
    """What each rank computed, in rank order.

    Args:
        world: of the ranks.
        target: what they run.
        request: which runs.
        state: the full state dict that exact runs start from.
        drawn: what the prover has drawn, by name: every parameter, and some buffers; variables in exact arithmetic.
        initial: the full state dict that ordinary runs start from.
        constants: those of the one device.

    Raises:
        CannotRunError: a rank failed or came to no end.
    """
    context = RunContext(
        step=target.step,
        request=request,
        state=state,
        drawn=drawn,
        initial=initial,
        arithmetics=request.make_arithmetics(drawn.values(), constants),
    )
    with divided_as_in(request.dtypes.values()), unmatched_entries_noted() as entries:
        sides = world.run(_run_rank, target, context)
    return [_with_unmatched(side, entries) for side in sides]


def run_in_processes(
    world: World,
    reload: Reload,
    request: RunRequest,
    state: Mapping[str, Tensor],
    drawn: Mapping[str, Tensor] = _NO_VALUES,
    initial: Mapping[str, Tensor] = _NO_VALUES,
    constants: ReferenceConstants | None = None,
) -> list[SideRecord]:
    """What each rank computed, in rank order; `reload` is called in each process.

    Raises:
        CannotRunError: `reload` cannot be sent to another process; a rank failed, died or came to no end.
    """
    return world.run(_run_process, reload, request, dict(state), dict(drawn), dict(initial), constants)


def _run_process(
    comm: Communicator,
    reload: Reload,
    request: RunRequest,
    state: Mapping[str, Tensor],
    drawn: Mapping[str, Tensor],
    initial: Mapping[str, Tensor],
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
        state=state,
        drawn=drawn,
        initial=initial,
        arithmetics=request.make_arithmetics(drawn.values(), constants),
        heartbeat=comm.beat,
    )
    fitted = divided_as_in(request.dtypes.values())
    with quiet_pytorch(), one_thread_if_small(state), fitted, unmatched_entries_noted() as entries:
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
