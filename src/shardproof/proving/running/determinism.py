"""The determinism gate: a step that differs between two runs on one device cannot be compared with anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from shardproof.errors import CannotRunError
from shardproof.proving.running.batch import copy_batch
from shardproof.proving.running.capture import Recorder
from shardproof.proving.running.dropout import dropout_standing_in
from shardproof.proving.running.grouped_products import grouped_products_followed
from shardproof.proving.running.measuring import MeasuringRecorder
from shardproof.proving.running.models import build_model, draw_buffers, nudge_parameters, own_dtypes, tensors_of_state
from shardproof.proving.running.quiet import quiet_pytorch
from shardproof.proving.running.thread_count import one_thread_if_small
from shardproof.proving.running.training import train
from shardproof.proving.running.widening import own_dtypes_widened
from shardproof.raised import describe_error
from shardproof.worlds.randomness import Randomness

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from shardproof.proving.records import Key
    from shardproof.proving.step import Step

_MEND = (
    "draw them before the step and give them with the batch (dropout is allowed: nn.Dropout, F.dropout, attention's "
    "dropout_p)"
)


def require_deterministic(step: Step, seed: int) -> None:
    """Build the model and take the step twice in float64, from the same seed.

    Raises:
        CannotRunError: the two differ, the step draws random numbers other than dropout's, or it cannot be run.
    """
    models = [build_model(step, seed) for _ in range(2)]
    name = _find_first_difference(*(model.state_dict() for model in models))
    if name is not None:
        raise CannotRunError(
            f"model() builds another model the second time, although PyTorch is seeded: {name} differs. Seed inside "
            "model() whatever else it draws from (Python's random, NumPy), and keep no count of its calls"
        )
    first = Recorder()
    _take(step, models.pop(0), seed, first)
    second = MeasuringRecorder(beside=first.records, measure=lambda _key, one, other: _same(one, other))
    moved = _take(step, models.pop(), seed, second)
    if moved:
        raise CannotRunError(f"the step draws from {' and '.join(moved)} in every call, on one device already; {_MEND}")
    key = _find_first_divergence(first, second)
    if key is not None:
        raise CannotRunError(
            f"two runs of the step on one device, from the same values, part at {key}: it draws random numbers without "
            f"a seed, or remembers earlier calls. If it draws, {_MEND}"
        )


def _take(step: Step, model: nn.Module, seed: int, recorder: Recorder) -> list[str]:
    """Record one run; returns the random generators that it draws from, by name."""
    own = own_dtypes(model).values()
    model.double()
    nudge_parameters(model, seed)
    draw_buffers(model, seed)
    batch = copy_batch(step.batch)
    before = Randomness.now()
    try:
        one_thread = one_thread_if_small(tensors_of_state(model))
        widened = own_dtypes_widened(torch.float64, own)
        with quiet_pytorch(), dropout_standing_in(), grouped_products_followed(), widened, one_thread:
            train(model, step, batch, recorder)
    except CannotRunError:
        raise
    except Exception as error:
        raise CannotRunError(f"the step cannot be run on one device: {describe_error(error)}") from error
    return before.moved()


def _find_first_divergence(first: Recorder, second: MeasuringRecorder[bool]) -> Key | None:
    """The first tensor that is not bit for bit the other run's, or that only one of them has."""
    further = [key for key in second.records.tensors if not first.has(key)]
    same = second.finish()
    parted = (key for key in first.records.tensors if not same.get(key))
    return next(parted, next(iter(further), None))


def _find_first_difference(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> str | None:
    if list(first) != list(second):
        return next(iter(set(first) ^ set(second)), "the order of its parameters")
    held = (name for name, value in first.items() if isinstance(value, Tensor))  # others are a module's extra state
    return next((name for name in held if not _same(first[name], second[name])), None)


def _same(first: Tensor, second: Tensor) -> bool:
    """Bit for bit, but any two NaNs are the same."""
    if first.shape != second.shape or first.dtype != second.dtype:
        return False
    return bool(torch.equal(first, second) or ((first == second) | (first.isnan() & second.isnan())).all())
