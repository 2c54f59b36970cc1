"""A training step on a transformers model: built from a configuration, without weights or network."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from shardproof.errors import CannotRunError
from shardproof.exact.errors import ExactArithmeticError
from shardproof.frameworks.transformers.configuration import load_configuration
from shardproof.frameworks.transformers.crashes import ShardedCrashError, describe_crash
from shardproof.frameworks.transformers.inputs import list_inputs
from shardproof.frameworks.transformers.models import TooLargeError, build_model, find_model_class, require_memory
from shardproof.frameworks.transformers.plans import PLAN_ATTRIBUTE
from shardproof.proving.step import Step
from shardproof.raised import describe_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor, nn

MOST_MEMORY = 1 << 30  # bytes of parameters in float64


class OneDeviceError(CannotRunError):
    """The model's own code fails on one device."""


def tiny_step(
    source: str,
    settings: Mapping[str, Any],
    *,
    seed: int = 0,
    full_size: bool = False,
    most_memory: int = MOST_MEMORY,
) -> Step:
    """Three AdamW steps with clipping.

    The loss is the model's own where it has one; else the sum of its outputs, each element times a drawn number.

    Args:
        source: a model type ('qwen3'), a path to a config.json, or to a folder that holds one.
        settings: configuration entries, over the small ones.
        seed: draws the inputs.
        full_size: keep the sizes of the configuration.
        most_memory: bytes of the parameters in float64.

    Raises:
        CannotRunError: transformers is not installed, or has no such model, or the configuration does not fit.
    """
    build, batch = _prepare_filled(source, settings, seed, full_size=full_size, most_memory=most_memory)
    return make_step(build, batch)


def make_step(build: Callable[[], nn.Module], batch: dict[str, Any], *, steps: int = 3) -> Step:
    """AdamW steps with clipping.

    Args:
        build: builds the model.
        batch: its inputs, and cotangents of its outputs where it has no loss.
        steps: how many.
    """
    return Step(
        model=build,
        batch=batch,
        forward=_compute_loss,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-3),
        clip_norm=1.0,
        steps=steps,
    )


def build_step_model(model_class: Any, config: Any) -> nn.Module:
    """The model with initial values. Routing biases, zero before training, are drawn: a wrong one would go unseen."""
    model = build_model(model_class, config)
    with torch.no_grad():
        for buffer in model.buffers():
            if buffer.is_floating_point() and not buffer.any():
                buffer.normal_()
    return model


def _prepare_filled(
    source: str, settings: Mapping[str, Any], seed: int, *, full_size: bool, most_memory: int
) -> tuple[Callable[[], nn.Module], dict[str, Any]]:
    """As `_prepare`; where a small model does not run, what its configuration leaves open is filled, then padded."""
    errors: list[CannotRunError] = []
    for fill, pad in ((False, False),) if full_size else ((False, False), (True, False), (True, True)):
        try:
            config = load_configuration(source, settings, full_size=full_size, fill=fill, pad=pad)
            return _prepare(config, seed, most_memory)
        except TooLargeError:
            raise
        except CannotRunError as error:
            errors.append(error)
    raise errors[0]


def _prepare(config: Any, seed: int, most_memory: int) -> tuple[Callable[[], nn.Module], dict[str, Any]]:
    """A function that builds the model, and its batch.

    Raises:
        CannotRunError: the model is too large, or cannot be built, or cannot be called on one device.
    """
    model_class = find_model_class(config)

    def build() -> nn.Module:
        return build_step_model(model_class, config)

    try:
        require_memory(model_class, config, most_memory)
        torch.manual_seed(seed)
        return build, _make_batch(build(), seed)
    except CannotRunError:
        raise
    except Exception as error:
        raise OneDeviceError(
            f"{model_class.__name__} of this configuration does not run on one device: {describe_error(error)}"
        ) from error


def _make_batch(model: nn.Module, seed: int) -> dict[str, Any]:
    """Inputs, and cotangents for the outputs of a model without a loss."""
    inputs, outputs = _try_inputs(model, list_inputs(model, seed))
    if getattr(outputs, "loss", None) is not None:
        return {"inputs": inputs}
    inputs.pop("labels", None)
    generator = torch.Generator().manual_seed(seed + 1)
    drawn = [torch.randn(one.shape, generator=generator) for one in _outputs(outputs)]
    if not drawn:
        raise CannotRunError(f"{type(model).__name__} has no floating outputs")
    return {"inputs": inputs, "cotangents": drawn}


def _try_inputs(model: nn.Module, candidates: list[dict[str, Any]]) -> tuple[dict[str, Any], Any]:
    """The first inputs with which the model can be called, and its outputs."""
    errors: list[Exception] = []
    for inputs in candidates:
        try:
            with torch.no_grad():
                return inputs, model(**inputs, **_options(model))
        except Exception as error:  # noqa: BLE001 - whatever the model's code raises
            errors.append(error)
    raise errors[0]


def _compute_loss(model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
    outputs = _call(model, batch["inputs"])
    if "cotangents" not in batch:
        loss: Tensor = outputs.loss
        return loss
    found, cotangents = list(_outputs(outputs)), batch["cotangents"]
    parts = [(one * drawn).sum() / one.shape[0] for one, drawn in zip(found, cotangents, strict=True)]
    return torch.stack(parts).sum()


def _call(model: nn.Module, inputs: Mapping[str, Any]) -> Any:
    """The model's outputs.

    Raises:
        ShardedCrashError: its code fails on a rank.
    """
    plan = getattr(model, PLAN_ATTRIBUTE, None)
    if plan is None:
        return model(**inputs, **_options(model))
    try:
        return model(**inputs, **_options(model))
    except (CannotRunError, ExactArithmeticError):
        raise
    except Exception as error:
        raise ShardedCrashError(describe_crash(error, model, plan)) from error


def _options(model: nn.Module) -> dict[str, bool]:
    return {"use_cache": False} if "use_cache" in inspect.signature(model.forward).parameters else {}


def _outputs(outputs: Any) -> Iterator[Tensor]:
    """The floating tensors among a model's outputs, in their order."""
    if isinstance(outputs, torch.Tensor):
        if outputs.is_floating_point():
            yield outputs
    elif isinstance(outputs, Mapping):
        for one in outputs.values():
            yield from _outputs(one)
    elif isinstance(outputs, list | tuple):
        for one in outputs:
            yield from _outputs(one)
