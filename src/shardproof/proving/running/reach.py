"""Which elements of frozen parameters a step uses: those that would have a gradient if the parameters were trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from shardproof.proving.records import Precision
from shardproof.proving.running.batch import copy_batch
from shardproof.proving.running.dropout import dropout_standing_in
from shardproof.proving.running.grouped_products import grouped_products_followed
from shardproof.proving.running.models import load_model
from shardproof.proving.running.widening import own_dtypes_widened

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor

    from shardproof.proving.step import Step


def reached_if_trained(
    step: Step, seed: int, state: Mapping[str, Tensor], dtypes: Iterable[torch.dtype] = ()
) -> dict[str, Tensor]:
    """By name, which elements of the model's frozen parameters would have a gradient in the first step, on one device.

    Nothing is known of a parameter that is used under `torch.no_grad()`, or of a step that only runs as it is frozen.

    Args:
        step: what a step is.
        seed: builds the model.
        state: the full state in float64.
        dtypes: of the user's parameters and buffers.
    """
    model = load_model(step, seed, state, Precision.FLOAT64)
    frozen = {name: one for name, one in model.named_parameters() if not one.requires_grad and one.is_floating_point()}
    if not frozen:
        return {}
    for parameter in frozen.values():
        parameter.requires_grad_(True)
    try:
        widened = own_dtypes_widened(torch.float64, dtypes)
        with dropout_standing_in(), grouped_products_followed(), widened:
            step.compute_loss(model, copy_batch(step.batch)).backward()
    except Exception:  # noqa: BLE001 - whatever the user's code raises; the step as it is has been run
        return {}
    return {name: one.grad != 0 for name, one in frozen.items() if one.grad is not None}
