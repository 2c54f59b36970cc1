"""The user's own training step: what the prover hands to it, and what it reports back.

    def my_training(run):                                    # called on every rank
        model = run.model(my_shard)                          # or one of your own, and run.watch(model)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        for batch in run.batches():
            optimizer.zero_grad()
            loss = my_loss(model, my_split(batch, run.rank))
            run.record_loss(loss)                            # of the whole batch
            loss.backward()
            run.record_gradients()                           # as they are to be applied, before clipping
            norm = my_clip(model)
            optimizer.step()
            run.record_update(optimizer, norm=norm)

What comes before the loop runs in ordinary float64; the layouts are found from the parameters' values there. The loop
runs in exact arithmetic. Unlike with `parallelize`, steps do not start from fresh residues: the training may keep
copies (master weights), which would then be stale. So later steps have weaker bounds, or none. Void elements alone are
drawn anew; a copy of one stays void, and is so on this side alone.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from shardproof.errors import CannotRunError
from shardproof.proving.records import Phase, Precision, Told
from shardproof.proving.running.batch import copy_batch, draw_batch
from shardproof.proving.running.batch_rows import BatchRows, count_rows
from shardproof.proving.running.capture import clone_parameters
from shardproof.proving.running.dtensor_draws import DTensorDraws
from shardproof.proving.running.hooks import modules_recorded
from shardproof.proving.running.models import dtype_of, fill_drawn_buffers, load_model, make_mesh
from shardproof.proving.running.one_rank import OneRun, make_segments, record_side, start_again_if_filled
from shardproof.proving.running.own_values import OwnValues
from shardproof.proving.running.stages import Stages, name_modules
from shardproof.proving.running.training import record_gradients, record_norm, record_update, renew_state

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch.distributed.device_mesh import DeviceMesh
    from torch.optim import Optimizer

    from shardproof.proving.records import SideRecord
    from shardproof.proving.running.request import RunContext
    from shardproof.proving.running.segments import Segments

    Candidate = Callable[["Run"], None]
    Shard = Callable[[nn.Module, DeviceMesh], Any]  # the sharded model, or the stages of it that a rank holds


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of the user's training step on one rank, as the user sees it.

    Attributes:
        mesh: over all ranks; one axis, `tp`, unless `prove` was given another mesh.
        state: the full state dict, in the run's dtype, of this run's own, with what modules give as extra state.
        steps: how many batches there will be.
    """

    mesh: DeviceMesh
    state: Mapping[str, Tensor]
    steps: int
    _training: _Training

    @property
    def rank(self) -> int:
        """This rank's number."""
        return dist.get_rank()

    @property
    def size(self) -> int:
        """How many ranks there are."""
        return dist.get_world_size()

    def watch(self, *models: nn.Module) -> None:
        """Say which model is trained: sharded, holding its part of `state`, before the first batch.

        Args:
            models: one; of a pipeline each stage that this rank holds, with the names that its modules have in the
                whole model.

        Raises:
            CannotRunError: one is no module, none has parameters, two modules have one name, or this is called again.
        """
        self._training.watch(models, {})

    def model(self, shard: Shard | None = None) -> Any:
        """Build the step's model with this run's values and dtypes, shard it, and watch it.

        Args:
            shard: `shard(model, mesh) -> model`, the training's own; None: every rank keeps the whole model. Of a
                pipeline it returns the stage that this rank holds, or a list of them, made of the model's own modules:
                these keep the names that they have in the model.

        Returns:
            What `shard` returned.

        Raises:
            CannotRunError: the model cannot be built; `shard` returned no module; or as for `watch`.
        """
        model = self._training.build()
        if shard is None:
            self.watch(model)
            return model
        names = name_modules(model)
        sharded = shard(model, self.mesh)
        models = tuple(sharded) if isinstance(sharded, list | tuple) else (sharded,)
        self._training.watch(models, {} if models[:1] == (model,) else names)
        return sharded

    def batches(self) -> Iterator[Any]:
        """The whole batch, once a step, the same on every rank: splitting it is the training's own business.

        Iterating again goes on with the steps that are left: an epoch may take some of them, and a batch that was only
        looked at, of which nothing is recorded, comes again. After the last step there are none.

        Raises:
            CannotRunError: no model is watched.
        """
        return self._training.take_batches()

    def dataset(self) -> BatchRows:
        """The rows of all batches, step after step, for a library's own data loader, which may read ahead.

        A step ends with `record_update`, not with the next batch: record its loss, its gradients and its update before.

        Raises:
            CannotRunError: no model is watched, or the batch has no rows.
        """
        return self._training.make_dataset()

    def record_loss(self, loss: Tensor) -> None:
        """Report the whole batch's loss, the same on every rank."""
        self._training.run.recorder.add(Phase.LOSS, "loss", loss.detach())

    def record_gradients(self) -> None:
        """Report the parameters' gradients as they are to be applied, before clipping."""
        record_gradients(self._training.watched, Phase.GRADIENT, self._training.run.recorder)

    def record_update(self, optimizer: Optimizer | None, *, norm: Tensor | float | None = None) -> None:
        """Report parameters after the update, optimizer state, and the norm that clipped the gradients.

        Args:
            optimizer: the one stepped; None for an update by hand, whose state is not compared.
            norm: over the whole model, if the step clips; a tensor, or a number that was read from one.
        """
        recorder = self._training.run.recorder
        record_norm(recorder, norm)
        record_update(self._training.watched, optimizer, recorder)
        self._training.end_step(optimizer)


@dataclass(slots=True, kw_only=True)
class _Training:
    """What the prover keeps of one run.

    Attributes:
        context: what the training has to compute, and from what.
        run: which run it is, and its records.
        own: the parameters that the training fills itself, whatever it is given.
        draws: notes what DTensor draws before the first step, in the run that draws masks too; else None.
        model: the one watched; None before that.
        parameters: this rank's own before the first step.
        segments: in exact arithmetic, what further steps start from.
        taken: how many batches were taken; of a dataset, how many steps have ended.
        batches: one for each step; in exact arithmetic drawn when it is taken first.
        by_rows: the batches are rows of a dataset: a step ends with its update.
        before: closed when the model is watched, or the training returns: leaves `draws`.
        inside: closed when the training returns: leaves the run's arithmetic and removes the hooks.
    """

    context: RunContext
    run: OneRun
    own: OwnValues
    draws: DTensorDraws | None = None
    model: nn.Module | None = None
    parameters: Mapping[str, Tensor] = field(default_factory=dict)
    segments: Segments | None = None
    taken: int = 0
    batches: list[Any] = field(default_factory=list)
    by_rows: bool = False
    before: ExitStack = field(default_factory=ExitStack)
    inside: ExitStack = field(default_factory=ExitStack)

    @property
    def watched(self) -> nn.Module:
        if self.model is None:
            raise CannotRunError(
                "the training step has not called run.watch(model), or run.model(), which must come before the loop"
            )
        return self.model

    def watch(self, models: Sequence[Any], names: Mapping[nn.Module, str]) -> None:
        given = " and ".join(type(model).__name__ for model in models) or "nothing"
        if not models or not all(isinstance(model, nn.Module) for model in models):
            raise CannotRunError(f"run.watch was given {given}; needed is a Module with parameters")
        if not any(list(model.parameters()) for model in models):
            raise CannotRunError(
                f"run.watch was given {given} without parameters; needed is a Module with parameters on every rank: "
                "give a pipeline no more stages than the model has layers"
            )
        if self.model is not None or self.taken:
            raise CannotRunError("run.watch was called twice, or after the first batch; call it once, before the loop")
        model = models[0] if len(models) == 1 and not names else Stages(models, names)
        self.model = model
        self.before.close()
        context, run = self.context, self.run
        exact, start = run.recorder.exact, context.start_of(run.recorder)
        fill_drawn_buffers(model, start.drawn, dtype_of(run.precision))
        self.own.load_over(model, start.state, start.drawn, run.precision, exact=exact is not None)
        if self.draws is not None:
            self.own.drawn_by_dtensor = self.draws.names(model)
        self.parameters = clone_parameters(model)
        if exact is not None and context.step.steps > 1:
            self.segments = make_segments(context, exact, self.parameters)

    def build(self) -> nn.Module:
        context, run = self.context, self.run
        state = context.start_of(run.recorder).state
        return load_model(context.step, context.request.build_seed, state, run.precision)

    def take_batches(self) -> Iterator[Any]:
        recorder, steps = self.run.recorder, self.context.step.steps
        self._copy_batches()
        only_looked_at = bool(self.taken) and not self._has_recorded()  # by an iteration before this one
        for number in range(self.taken - only_looked_at, steps):
            if not self.taken:
                self._enter()
            recorder.step = number
            if number == self.taken and recorder.exact is not None:
                self.batches[number] = draw_batch(recorder.exact, self.batches[number])
            self.taken = number + 1
            yield self.batches[number]

    def make_dataset(self) -> BatchRows:
        self._copy_batches()
        if self.taken or self.by_rows:
            raise CannotRunError(
                "run.dataset() was called twice, or after run.batches(); call it once, before the loop"
            )
        self.by_rows = True
        drawn: dict[int, Any] = {}

        def take(number: int) -> Any:
            if not drawn:
                self._enter()
            if number not in drawn:
                exact, batch = self.run.recorder.exact, self.batches[number]
                drawn[number] = batch if exact is None else draw_batch(exact, batch)
            return drawn[number]

        return BatchRows(take, rows=count_rows(self.context.step.batch), steps=self.context.step.steps)

    def end_step(self, optimizer: Optimizer | None) -> None:
        """After an update is recorded: with a dataset, what is recorded from now on belongs to the next step."""
        taken = self.run.recorder.step + 1
        if self.segments is not None and taken < self.context.step.steps:
            renew_state(self.watched, optimizer, self.segments, taken)
        if self.by_rows:
            self.taken += 1
            self.run.recorder.step = min(self.taken, self.context.step.steps - 1)

    def _copy_batches(self) -> None:
        """Cast before exact arithmetic, as the reference's batch is: numbers are lifted at their own precision."""
        if self.watched and not self.batches:
            step, dtype = self.context.step, dtype_of(self.run.precision)
            self.batches.extend(copy_batch(step.batch, dtype) for _ in range(step.steps))

    def _enter(self) -> None:
        """Enter the run's arithmetic, and record the modules from now on."""
        self.inside.enter_context(self.run.entered())
        self.inside.enter_context(modules_recorded(self.watched, self.run.recorder))

    def _has_recorded(self) -> bool:
        """Whether anything was recorded of the step whose batch was taken last."""
        records = self.run.recorder.records
        return any(key.step == self.taken - 1 for key in (*records.tensors, *records.missing, *records.frozen))

    def require_complete(self) -> None:
        """Raise CannotRunError if no model was watched, or fewer steps were taken than the step has."""
        steps = self.context.step.steps
        if self.watched and self.taken != steps:
            raise CannotRunError(
                f"the training step took {self.taken} of {steps} steps: loop over run.batches()"
                + ", or record the update of each step of run.dataset()" * self.by_rows
            )


def run_candidate(context: RunContext, candidate: Candidate) -> SideRecord:
    """Run the user's training step on one rank: once for each run that is requested, each from the full state.

    Raises:
        CannotRunError: it watched no model, or took fewer steps than it should.
    """
    mesh = make_mesh(context.request.mesh)
    own = OwnValues.after(context.request.told_to(dist.get_rank()))
    side = record_side(context, partial(_take_one_run, context, candidate, mesh, own))
    again = start_again_if_filled(context, own)
    if again is not None:
        _take_one_run(again, candidate, mesh, own, OneRun(precision=Precision.FLOAT64, recorder=again.make_recorder()))
    side = replace(side, told=Told(filled=own.sorted_names()), depending=own.depending())
    if not context.request.draws:
        return side
    return replace(side, initial=own.initial(), drawn_by_dtensor=own.drawn_by_dtensor)


def _converted(own: torch.dtype, dtype: torch.dtype | None) -> torch.dtype:
    """The dtype of an entry of the state where everything floating is converted to `dtype`, if it is given."""
    if dtype is None or not (own.is_floating_point or own.is_complex):
        return own
    return dtype.to_complex() if own.is_complex else dtype


def _take_one_run(
    context: RunContext, candidate: Candidate, mesh: DeviceMesh, own: OwnValues, run: OneRun
) -> Mapping[str, Tensor]:
    request, dtype = context.request, dtype_of(run.precision)
    torch.manual_seed(request.build_seed)
    state = {
        name: tensor.detach().to(_converted(request.dtypes[name], dtype), copy=True)
        for name, tensor in context.start_of(run.recorder).state.items()
    }
    state |= request.extra
    training = _Training(context=context, run=run, own=own, draws=None if run.masks is None else DTensorDraws())
    try:
        if training.draws is not None:
            training.before.enter_context(training.draws)
        candidate(Run(mesh=mesh, state=state, steps=context.step.steps, _training=training))
    finally:
        training.inside.close()
        training.before.close()
    dist.barrier()  # the last rank to leave exact arithmetic puts every rank's parameters back
    training.require_complete()
    return training.parameters
