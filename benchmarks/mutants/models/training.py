"""Pieces of trainings of a user's own, handed a run: loading, rows of the batch, the loss of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch.nn.functional as F

if TYPE_CHECKING:
    from torch import Tensor, nn


def load(model: nn.Module, run: Any) -> nn.Module:
    """The whole model with the run's values, in its dtype, watched."""
    load_unwatched(model, run)
    run.watch(model)
    return model


def load_unwatched(model: nn.Module, run: Any) -> nn.Module:
    """The whole model with the run's values, in its dtype."""
    model.to(next(x.dtype for x in run.state.values() if x.is_floating_point()))
    model.load_state_dict(dict(run.state))
    return model


def own_rows(run: Any, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """This rank's rows of inputs and targets, as many as every rank's."""
    inputs, targets = (x.chunk(run.size)[run.rank] for x in batch)
    return inputs, targets


def average_loss(model: nn.Module, rows: tuple[Tensor, Tensor]) -> Tensor:
    """The mean over these rows."""
    return F.mse_loss(model(rows[0]), rows[1])
