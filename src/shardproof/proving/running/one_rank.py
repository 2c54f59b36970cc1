"""One rank: all runs that are requested of one device or rank, on a model that the prover trains.

The reference on one device and the candidate on one rank run the same code; so they can be compared tensor by tensor.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from shardproof.exact.algebra.chosen_sides import add_choices
from shardproof.proving.records import MEASURED, SAMPLES, UNROUNDED, Precision, SideRecord, Told
from shardproof.proving.running.batch import copy_batch, draw_batch
from shardproof.proving.running.capture import clone_parameters
from shardproof.proving.running.clipping import CountedElements
from shardproof.proving.running.collective_log import collectives_recorded, early_uses_waited_for
from shardproof.proving.running.data_parallel import BatchSplit, make_split
from shardproof.proving.running.dropout import dropout_standing_in, masks_drawn
from shardproof.proving.running.dtensor_draws import DTensorDraws
from shardproof.proving.running.grouped_products import grouped_products_followed
from shardproof.proving.running.measuring import MeasuringRecorder, measure_noise
from shardproof.proving.running.models import build_model, dtype_of, initial_values, load_model, make_mesh, shard_model
from shardproof.proving.running.own_values import OwnValues
from shardproof.proving.running.plan_entries import noted_entries
from shardproof.proving.running.reach import reached_if_trained
from shardproof.proving.running.recomputation import recomputation_followed
from shardproof.proving.running.scheduled import ScheduledStages
from shardproof.proving.running.segments import Segments
from shardproof.proving.running.start import start_ordinary
from shardproof.proving.running.training import train
from shardproof.proving.running.widening import own_dtypes_widened
from shardproof.raised import describe_error
from shardproof.worlds.collective_trace import check_op

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import Tensor, nn

    from shardproof.exact import ExactArithmetic
    from shardproof.proving.deviation import Deviation
    from shardproof.proving.records import Masks, Records
    from shardproof.proving.running.capture import Recorder
    from shardproof.proving.running.models import Parallelize
    from shardproof.proving.running.request import RunContext


@dataclass(frozen=True, slots=True, kw_only=True)
class OneRun:
    """One of the runs that are requested.

    Attributes:
        precision: of its numbers; FLOAT64 in exact arithmetic.
        recorder: fills its records.
        traced: its collectives are recorded.
        masks: filled with the dropout masks that the generators draw; None if they are not asked for.
        dtypes: of the user's parameters and buffers.
    """

    precision: Precision
    recorder: Recorder
    traced: bool = False
    masks: Masks | None = None
    dtypes: frozenset[torch.dtype] = frozenset()

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Inside, the run's arithmetic holds, and its masks and collectives are recorded."""
        with ExitStack() as stack:
            if self.recorder.exact is None:
                stack.enter_context(grouped_products_followed())
                stack.enter_context(own_dtypes_widened(dtype_of(self.precision), self.dtypes))
            else:
                stack.enter_context(self.recorder.exact.joined(check_op))
            if self.masks is not None:
                stack.enter_context(masks_drawn(self.recorder, self.masks))
            if self.traced:
                stack.enter_context(recomputation_followed(self.recorder))
                stack.enter_context(collectives_recorded(self.recorder))
            elif dist.is_initialized():
                stack.enter_context(early_uses_waited_for(self.recorder))
            yield


def record_side(context: RunContext, take: Callable[[OneRun], Mapping[str, Tensor]]) -> SideRecord:
    """Take every run that is requested: first the exact ones, then the ordinary ones, then the one that draws masks.

    One device's runs that round are measured beside its run without that rounding, which comes first.

    Args:
        context: what is requested.
        take: takes one run and fills its records; returns this rank's parameters before the first step.
    """
    request = context.request
    traced = request.traced and dist.is_initialized()
    parameters: dict[str, Tensor] = {}
    start: dict[str, Tensor] = {}
    own = Precision.OWN if Precision.OWN in request.native else Precision.FLOAT64
    dtypes = frozenset(request.dtypes.values())

    def record(run: OneRun) -> Records:
        before = take(run)
        if not parameters and request.is_first:
            parameters.update(before)
        if run.recorder.exact is None and run.precision is own and dist.is_initialized():
            start.update(before)
        return run.recorder.records

    trials = [
        record(OneRun(precision=Precision.FLOAT64, recorder=context.make_recorder(exact), traced=traced))
        for exact in context.arithmetics
    ]
    native: dict[Precision, Records] = {}
    with dropout_standing_in() as dropped:
        for precision in request.native:
            beside = native.get(UNROUNDED[precision], context.beside) if precision in UNROUNDED else None
            recorder = context.make_recorder() if beside is None else _measuring(context, precision, beside)
            native[precision] = record(OneRun(precision=precision, recorder=recorder, traced=traced, dtypes=dtypes))
            if isinstance(recorder, MeasuringRecorder):
                native[precision].deviations.update(recorder.finish())
    masks: Masks = {}
    if request.draws and (not native or _on_any_rank(bool(dropped))):  # else no mask would be drawn
        take(OneRun(precision=Precision.FLOAT64, recorder=context.make_recorder(), masks=masks, dtypes=dtypes))
    taken = dict.fromkeys(one for exact in context.arithmetics for one in exact.taken_constants)
    branches = dict.fromkeys(one for exact in context.arithmetics for one in exact.branches)
    return SideRecord(
        parameters=parameters,
        trials=trials,
        native=native,
        start=start,
        masks=masks,
        taken_constants=tuple(taken),
        branches=tuple(branches),
        selects=any(exact.selects for exact in context.arithmetics),
        choices=add_choices(exact.choices for exact in context.arithmetics),
    )


def _measuring(context: RunContext, precision: Precision, beside: Records) -> MeasuringRecorder[Deviation | None]:
    return MeasuringRecorder(
        heartbeat=context.heartbeat, beside=beside, measure=measure_noise, keeps=precision not in MEASURED
    )


def _on_any_rank(holds: bool) -> bool:
    """Whether something holds on some rank; all ranks then take a run, in whose collectives they meet."""
    if not dist.is_initialized():
        return holds
    found = torch.tensor([holds], dtype=torch.int64)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return bool(found)


def run_reference(context: RunContext) -> SideRecord:
    """Take the steps on one device.

    In the user's own dtypes the step may not run here (a CPU has no kernel of half precision, say). A proof needs no
    such run: `SideRecord.failed` says why there is none, and nothing is raised.
    """
    step, request = context.step, context.request

    def build(run: OneRun) -> nn.Module:
        state = context.start_of(run.recorder).state
        return load_model(step, request.build_seed, state, run.precision)

    split = BatchSplit(count=request.axes.shares)

    def take(run: RunContext) -> SideRecord:
        return record_side(run, partial(_train_one_run, run, build, split, starts=True))

    needed = tuple(precision for precision in request.native if precision not in SAMPLES)
    samples = tuple(precision for precision in request.native if precision in SAMPLES)
    side = take(replace(context, request=replace(request, native=needed)))
    if request.draws:
        built = build_model(step, request.build_seed)
        side = replace(side, initial=initial_values(built))
        if any(not one.requires_grad for one in built.parameters()):
            state, dtypes = context.ordinary.state, request.dtypes.values()
            side = replace(side, reached=reached_if_trained(step, request.build_seed, state, dtypes))
    if not samples:
        return side
    try:
        own = take(
            replace(
                context,
                request=replace(request, native=samples, draws=False),
                arithmetics=(),
                beside=side.native[Precision.ROUNDED],
            )
        )
    except Exception as error:  # noqa: BLE001 - whatever the user's code raises
        return replace(side, failed=describe_error(error))
    return replace(side, native={**side.native, **own.native})


def run_parallelized(context: RunContext, parallelize: Parallelize) -> SideRecord:
    """Take the steps on one rank: the reference's full state goes in through the user's own sharding.

    Along the data axes each rank takes rows of the batch of its own; averaging gradients is the sharding's business.

    Raises:
        CannotRunError: the sharding returns no module, or names its parameters otherwise; the batch cannot be split.
    """
    step, request = context.step, context.request
    mesh = make_mesh(request.mesh)

    told = request.told_to(dist.get_rank())
    own = OwnValues.after(told)
    scheduled = False

    def build(run: OneRun, context: RunContext = context) -> nn.Module:
        nonlocal scheduled
        start = context.start_of(run.recorder)
        model = shard_model(load_model(step, request.build_seed, start.state, run.precision), parallelize, mesh)
        own.load_over(model, start.state, start.drawn, run.precision, exact=run.recorder.exact is not None)
        scheduled = isinstance(model, ScheduledStages)
        return model

    split = make_split(request.axes, mesh, dist.get_rank())
    counted = None
    if step.clip_norm is not None:
        counted = CountedElements(known=context.known, masks={} if told is None else dict(told.counted))
    side = record_side(context, partial(_train_one_run, context, build, split, counted=counted))
    again = start_again_if_filled(context, own)
    if again is not None:
        build(OneRun(precision=Precision.FLOAT64, recorder=again.make_recorder()), again)
    told = Told(filled=own.sorted_names(), counted={} if counted is None else counted.masks)
    side = replace(side, scheduled=scheduled, told=told, depending=own.depending())
    if not request.draws:
        return side
    as_built, draws = build_model(step, request.build_seed), DTensorDraws()
    with draws:
        built = shard_model(as_built, parallelize, mesh)
    initial = initial_values(built)
    return replace(
        side,
        initial=initial,
        drawn_by_dtensor=draws.names(built),
        depending=own.depending(initial),
        unmatched=noted_entries(built),
    )


def start_again_if_filled(context: RunContext, own: OwnValues) -> RunContext | None:
    """For one more start, from other values, of all ranks if one of them is filled by its sharding; None for none.

    What it fills it with has to be the same, or the layout cannot be told: see `own_values.py`.
    """
    request = context.request
    if not (request.seeds and request.traced) or not _on_any_rank(bool(own.names)):
        return None
    seed = request.build_seed
    return replace(context, ordinary=start_ordinary(build_model(context.step, seed), seed))


def make_segments(context: RunContext, exact: ExactArithmetic, parameters: Mapping[str, Tensor]) -> Segments:
    """Where a run in exact arithmetic is cut, and what its steps start from.

    Args:
        context: of this device or rank.
        exact: the run's arithmetic.
        parameters: the device's own, before the first step.
    """
    request = context.request
    return Segments(
        exact=exact,
        cuts=request.cuts if request.fresh else {},
        rank=dist.get_rank() if dist.is_initialized() else None,
        parameters=parameters,
        state=context.exact.state,
        fresh=request.fresh,
    )


def _train_one_run(
    context: RunContext,
    build: Callable[[OneRun], nn.Module],
    split: BatchSplit,
    run: OneRun,
    *,
    counted: CountedElements | None = None,
    starts: bool = False,
) -> Mapping[str, Tensor]:
    """Every run has a model of its own: a sharding may keep buffers, which hold residues after an exact run."""
    step, exact = context.step, run.recorder.exact
    model = build(run)
    parameters = clone_parameters(model)
    masks = None if counted is None else counted.find(parameters, context.start_of(run.recorder).state)
    batch = split.rows_of(copy_batch(step.batch, dtype_of(run.precision)))
    segments = None if exact is None else make_segments(context, exact, parameters)
    with run.entered():
        drawn = batch if exact is None else draw_batch(exact, batch)
        # Of ordinary runs only if these alone are judged.
        starts = starts and (exact is not None or (context.request.is_first and not context.request.seeds))
        train(model, step, drawn, run.recorder, segments=segments, split=split, counted=masks, starts=starts)
    if exact is not None and dist.is_initialized():
        dist.barrier()  # the next run begins when the last rank has left this one
    return parameters
