"""The user's own training step: what the prover hands to it, and what it reports back.

    def my_training(run):                                    # called on every rank
        model = my_shard(Model(), run.state, run.mesh)
        run.watch(model)
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

Before the loop is ordinary float64, and there the layouts are found by value; the loop runs in exact arithmetic.
Steps do not start from fresh residues, as they do with `parallelize`: the training may keep copies (master weights)
that would then be stale. So later steps have weaker bounds, or none.
"""

from __future__ import annotations

from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from shardproof.errors import CannotRunError
from shardproof.proving.records import Phase, Records
from shardproof.proving.running.batch import copy_batch, draw_batch
from shardproof.proving.running.capture import capture_exactly, capture_natively, local_value
from shardproof.proving.running.collective_log import collectives_recorded
from shardproof.proving.running.dropout import dropout_standing_in, masks_drawn
from shardproof.proving.running.hooks import watched
from shardproof.proving.running.models import Precision
from shardproof.proving.running.one_rank import Side, make_mesh
from shardproof.proving.running.training import record_gradients, record_update
from shardproof.worlds.processgroup import say_nothing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch.distributed.device_mesh import DeviceMesh
    from torch.optim import Optimizer

    from shardproof.exact import ExactArithmetic
    from shardproof.proving.running.dropout import Masks
    from shardproof.proving.running.request import Runs
    from shardproof.proving.running.subject import Candidate
    from shardproof.proving.step import Step
    from shardproof.worlds.communicator import Communicator


@dataclass(slots=True, kw_only=True)
class Run:
    """One run of the user's training step on one rank.

    Attributes:
        mesh: over all ranks; one axis, `tp`, unless `prove` was given another mesh.
        state: the full state dict, in the run's dtype, of this run's own.
        steps: how many batches there will be.
    """

    mesh: DeviceMesh
    state: Mapping[str, Tensor]
    steps: int
    _batch: Any
    _dtype: torch.dtype | None
    _records: Records
    _exact: ExactArithmetic | None
    _masks: Masks | None = None
    _inside: ExitStack = field(default_factory=ExitStack)
    _model: nn.Module | None = None
    _parameters: dict[str, Tensor] = field(default_factory=dict)
    _taken: int = 0

    @property
    def rank(self) -> int:
        """This rank's number."""
        return dist.get_rank()

    @property
    def size(self) -> int:
        """How many ranks there are."""
        return dist.get_world_size()

    def watch(self, model: nn.Module) -> None:
        """Say which model is trained: sharded, holding its part of `state`, before the first batch.

        Raises:
            CannotRunError: it is no module, has no parameters, or another one is watched.
        """
        if not isinstance(model, nn.Module) or not list(model.parameters()):
            raise CannotRunError(f"run.watch was given {type(model).__name__}; needed is a Module with parameters")
        if self._model is not None or self._taken:
            raise CannotRunError("run.watch was called twice, or after the first batch; call it once, before the loop")
        self._model = model
        self._parameters = {name: local_value(p.detach()).clone() for name, p in model.named_parameters()}

    def batches(self) -> Iterator[Any]:
        """The whole batch, once a step, the same on every rank: splitting it is the training's own business.

        Raises:
            CannotRunError: no model is watched.
        """
        model = self._watched()
        # Cast before exact arithmetic, as the reference's batch is: a number is lifted at its own dtype's precision.
        batches = [copy_batch(self._batch, self._dtype) for _ in range(self.steps)]
        for number in range(self.steps):
            if not number:
                self._inside.enter_context(nullcontext() if self._exact is None else self._exact.joined())
                self._inside.enter_context(watched(model, self._records))
                if self._masks is not None:
                    self._inside.enter_context(masks_drawn(self._records, self._masks))
                self._inside.enter_context(collectives_recorded(self._records))
            self._records.step = number
            self._taken = number + 1
            yield batches[number] if self._exact is None else draw_batch(self._exact, batches[number])

    def record_loss(self, loss: Tensor) -> None:
        """Report the whole batch's loss, the same on every rank."""
        self._records.add(Phase.LOSS, "loss", loss.detach())

    def record_gradients(self) -> None:
        """Report the parameters' gradients as they are to be applied, before clipping."""
        record_gradients(self._watched(), Phase.GRADIENT, self._records)

    def record_update(self, optimizer: Optimizer | None, *, norm: Tensor | None = None) -> None:
        """Report parameters after the update, optimizer state, and the norm that clipped the gradients.

        Args:
            optimizer: the one stepped; None for an update by hand, whose state is not compared.
            norm: over the whole model, if the step clips.
        """
        if norm is not None:
            self._records.add(Phase.NORM, "gradient norm", norm)
        record_update(self._watched(), optimizer, self._records)

    def _watched(self) -> nn.Module:
        if self._model is None:
            raise CannotRunError("the training step has not called run.watch(model), which must come before the loop")
        return self._model


def run_training(
    comm: Communicator,
    step: Step,
    candidate: Candidate,
    state: Mapping[str, Tensor],
    runs: Runs,
    contexts: Sequence[ExactArithmetic],
    beat: Callable[[], None] = say_nothing,
) -> Side:
    """Run the user's training step on one rank: once a trial, and natively; each from the full state.

    Raises:
        CannotRunError: it watched no model, or took fewer steps than it should.
    """
    assert comm.size == runs.size
    mesh = make_mesh(runs.mesh)

    def run_once(exact: ExactArithmetic | None, precision: Precision, masks: Masks | None = None) -> Run:
        torch.manual_seed(runs.build_seed)
        dtype = precision.dtype
        run = Run(
            mesh=mesh,
            state={name: tensor.detach().to(dtype or runs.dtypes[name], copy=True) for name, tensor in state.items()},
            steps=step.steps,
            _batch=step.batch,
            _dtype=dtype,
            _records=Records(
                capture=partial(capture_natively, beat=beat)
                if exact is None
                else partial(capture_exactly, exact, beat=beat)
            ),
            _exact=exact,
            _masks=masks,
        )
        try:
            candidate(run)
        finally:
            run._inside.close()  # noqa: SLF001 - the user's code is between its two ends
        dist.barrier()  # the last rank to leave exact arithmetic puts every rank's parameters back
        run._watched()  # noqa: SLF001
        if run._taken != step.steps:  # noqa: SLF001
            taken = run._taken  # noqa: SLF001
            raise CannotRunError(f"the training step took {taken} of {step.steps} steps: loop over run.batches()")
        return run

    exactly = [run_once(exact, Precision.FLOAT64) for exact in contexts]
    with dropout_standing_in():
        natively = {precision: run_once(None, precision) for precision in runs.native}
    masks: Masks = {}
    if runs.draws:
        run_once(None, Precision.FLOAT64, masks)
    first = [*exactly, *natively.values()][0]
    return Side(
        parameters=first._parameters,  # noqa: SLF001
        trials=[run._records for run in exactly],  # noqa: SLF001
        native={precision: run._records for precision, run in natively.items()},  # noqa: SLF001
        masks=masks,
    )
