"""A schedule of `torch.distributed.pipelining`, which takes the forward and the backward of a rank's stages.

`parallelize` may return one in place of a model: the stages are its own, with the loss of a microbatch, and the prover
hands it the batch, clips, and updates.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

import torch
import torch.distributed as dist
from torch import Tensor

from shardproof.errors import CannotRunError
from shardproof.proving.running.stages import Stages

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from shardproof.proving.step import Step

_MODULE: Final = "torch.distributed.pipelining.schedules"


def is_schedule(value: object) -> bool:
    """Whether it is a schedule of PyTorch's, of one stage on each rank or of several."""
    if _MODULE not in sys.modules:
        return False
    from torch.distributed.pipelining.schedules import PipelineScheduleMulti, PipelineScheduleSingle

    return isinstance(value, PipelineScheduleSingle | PipelineScheduleMulti)


class ScheduledStages(Stages):
    """The stages that a rank's schedule runs, under the names that their modules have in the whole model.

    Args:
        schedule: as `parallelize` returned it.
        names: of the modules of the whole model.

    Raises:
        CannotRunError: a stage has no parameters, the schedule has no loss, or two modules have one name.
    """

    def __init__(self, schedule: Any, names: Mapping[nn.Module, str]) -> None:
        self._held_stages = _stages_of(schedule)
        for stage in self._held_stages:
            if not any(True for _ in stage.submod.parameters()):
                raise CannotRunError(
                    f"stage {stage.stage_index} of {stage.num_stages} in the schedule that parallelize returned has no "
                    "parameters: give a pipeline no more stages than the model has layers"
                )
        if schedule._loss_fn is None:  # noqa: SLF001 - the only place where a schedule keeps it
            raise CannotRunError(
                "the schedule that parallelize returned has no loss_fn, and computes no gradients: give it the loss of "
                "a microbatch"
            )
        self._schedule = schedule
        super().__init__([stage.submod for stage in self._held_stages], names)

    def take(self, step: Step, batch: Any) -> Tensor:
        """Forward and backward of all microbatches.

        Args:
            step: whose `loss` the schedule computes, of microbatches.
            batch: inputs and targets.

        Returns:
            The loss of the batch, the same on all ranks of the pipeline: the mean of the microbatches' losses where the
            schedule divides gradients by their number (`scale_grads`), else their sum.

        Raises:
            CannotRunError: the step has no inputs and targets.
        """
        if step.loss is None:
            raise CannotRunError(
                "parallelize returned a schedule, which needs a Step with loss(outputs, targets), whose batch is "
                "(inputs, targets); for any other batch give your own training as candidate="
            )
        inputs, targets = batch
        losses: list[Tensor] = []
        is_first, is_last = (any(getattr(one, name) for one in self._held_stages) for name in ("is_first", "is_last"))
        given = (inputs,) if is_first else ()
        self._schedule.step(*given, **({"target": targets, "losses": losses} if is_last else {}))
        loss = torch.zeros((), dtype=torch.float64)  # in which no rank's share is rounded
        if losses:
            each = torch.stack([one.detach().double() for one in losses])
            loss = each.mean() if self._schedule.scale_grads else each.sum()
        dist.all_reduce(loss, group=self._held_stages[0].group)
        return loss


def _stages_of(schedule: Any) -> list[Any]:
    """Those of this rank; a schedule has one, or a list of them."""
    if hasattr(schedule, "_stage"):
        return [schedule._stage]  # noqa: SLF001 - PyTorch has no other door to them
    return list(schedule._stages)  # noqa: SLF001
