"""Precision: in which dtypes an ordinary run computes, and from which values it starts."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

import torch

from shardproof.errors import CannotRunError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from shardproof.proving.step import Step


class Precision(StrEnum):
    """Of an ordinary run. OWN and ROUNDED start from the same values: they differ by rounding on the way alone."""

    FLOAT64 = "float64"
    FLOAT32 = "float32"
    OWN = "own"  # the dtypes that the user's model is built in, each parameter its own, and the batch as it was given
    ROUNDED = "rounded"  # float64, from values that were rounded to those dtypes
    SHAKEN = "shaken"  # as OWN, from values that are one unit in the last place away, at random
    SHAKEN_AGAIN = "shaken again"

    @property
    def dtype(self) -> torch.dtype | None:
        """The one to which everything is converted; None where everything stays as the user has it."""
        if self in SAMPLES:
            return None
        return torch.float32 if self is Precision.FLOAT32 else torch.float64


# Each is a sample of what rounding does to the reference. In one alone a value can come out right by luck, and with it
# all that is computed from it.
SAMPLES = (Precision.OWN, Precision.SHAKEN, Precision.SHAKEN_AGAIN)


def build_as_it_is(step: Step, seed: int) -> nn.Module:
    """The user's model, in the dtypes that they build it in.

    Raises:
        CannotRunError: it cannot be built, or is no module, or has no parameters.
    """
    torch.manual_seed(seed)
    try:
        model = step.model()
    except Exception as error:
        raise CannotRunError(f"the model cannot be built: {type(error).__name__}: {error}") from error
    if not isinstance(model, torch.nn.Module) or not list(model.parameters()):
        raise CannotRunError(f"model() gave {type(model).__name__}; needed is a torch.nn.Module with parameters")
    return model


def load_model(step: Step, seed: int, state: Mapping[str, Tensor], precision: Precision) -> nn.Module:
    """The user's model with the values of a full state in float64, each rounded as the precision asks.

    Raises:
        CannotRunError: it cannot be built.
    """
    model = build_as_it_is(step, seed)
    if precision in (Precision.FLOAT64, Precision.FLOAT32):
        model.double()
    model.load_state_dict(state)
    if precision in SAMPLES[1:]:
        _shake(model, seed=SAMPLES.index(precision))
    return model if precision.dtype is None else model.to(precision.dtype)


def _shake(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            signs = torch.randint(2, parameter.shape, generator=generator) * 2 - 1
            moved = parameter.double() * (1 + signs * torch.finfo(parameter.dtype).eps)
            parameter.copy_(moved)


def precisions_of(dtypes: Mapping[str, torch.dtype]) -> tuple[Precision, ...]:
    """Those that the reference runs in, beside exact arithmetic, for a model of these dtypes."""
    needed = (Precision.FLOAT64, Precision.FLOAT32)
    if all(dtype == torch.float64 or not dtype.is_floating_point for dtype in dtypes.values()):
        return needed
    return (*needed, Precision.ROUNDED, *SAMPLES)


def own_dtypes(model: nn.Module) -> dict[str, torch.dtype]:
    """The dtype of every entry of a state dict."""
    return {name: tensor.dtype for name, tensor in model.state_dict().items()}


def name_dtypes(dtypes: Mapping[str, torch.dtype]) -> str:
    """The floating ones in words: 'bfloat16', or 'bfloat16 and float32' where they are mixed."""
    names = {str(dtype).removeprefix("torch.") for dtype in dtypes.values() if dtype.is_floating_point}
    return " and ".join(sorted(names))
