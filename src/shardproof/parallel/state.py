"""The training state by name: parameters, buffers, the optimizer's state of each parameter, counts of dropout calls.

Names are the model's, so they are the same on any number of ranks. An optimizer state of its parameter's shape is
sharded as the parameter is; a scalar (a step count) is replicated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from shardproof.errors import CannotRunError
from shardproof.parallel.dropout import PositionalDropout
from shardproof.parallel.optimizers import check_optimizer
from shardproof.parallel.sharding import replicated, require_sharding

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn
    from torch.optim import Optimizer

    from shardproof.parallel.axis import Axis
    from shardproof.parallel.sharding import Sharding

Settings = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalTensor:
    """A rank's tensor (the program's own memory) and its sharding."""

    local: Tensor
    sharding: Sharding


def tensors_of_model(model: nn.Module, axis: Axis | None) -> dict[str, LocalTensor]:
    """Parameters (a tied one under the first of its names) and persistent buffers.

    Raises:
        CannotRunError: a parameter carries no sharding.
    """
    tensors = {}
    for name, parameter in model.named_parameters():
        tensors[name] = LocalTensor(local=parameter.detach(), sharding=require_sharding(parameter, axis, name=name))
    persistent = model.state_dict(keep_vars=True)
    rank, size = (axis.rank, axis.size) if axis else (0, 1)
    for name, buffer in model.named_buffers():
        if name in persistent:
            tensors[name] = LocalTensor(local=buffer.detach(), sharding=replicated(buffer.shape, rank=rank, size=size))
    return tensors


def states_of_optimizer(model: nn.Module, optimizer: Optimizer, axis: Axis | None) -> dict[str, dict[str, LocalTensor]]:
    """The optimizer's state of each parameter that has some, by the parameter's name.

    Raises:
        CannotRunError: the optimizer is not right on shards, has parameters that are not the model's, or state that
            has neither its parameter's shape nor one element.
    """
    check_optimizer(optimizer)
    names = names_of_parameters(model, optimizer)
    states: dict[str, dict[str, LocalTensor]] = {}
    for parameter, name in names.items():
        sharding = require_sharding(parameter, axis, name=name)
        for key, value in optimizer.state.get(parameter, {}).items():
            if value is not None:
                states.setdefault(name, {})[key] = LocalTensor(
                    local=_tensor_of(value, f"{name}/{key}"),
                    sharding=_sharding_of_state(value, sharding, f"{name}/{key}"),
                )
    return states


def names_of_parameters(model: nn.Module, optimizer: Optimizer) -> dict[Tensor, str]:
    """The optimizer's parameters and their names in the model.

    Raises:
        CannotRunError: one is not the model's.
    """
    known = {parameter: name for name, parameter in model.named_parameters()}
    given = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    strange = [parameter for parameter in given if parameter not in known]
    if strange:
        raise CannotRunError(
            f"{len(strange)} of the optimizer's parameters are not the model's: make the optimizer after parallelize, "
            "from the model's parameters"
        )
    return {parameter: known[parameter] for parameter in given}


def settings_of(model: nn.Module, optimizer: Optimizer) -> list[Settings]:
    """Each parameter group's settings as plain values, and the names of its parameters under "params".

    Raises:
        CannotRunError: a setting is not a number, a string, None, or a tuple of these.
    """
    names = names_of_parameters(model, optimizer)
    settings = []
    for group in optimizer.param_groups:
        plain = {key: _plain(value, key) for key, value in group.items() if key not in ("params", "param_names")}
        settings.append(plain | {"params": [names[parameter] for parameter in group["params"]]})
    return settings


def restore_settings(optimizer: Optimizer, saved: list[Settings]) -> None:
    """Give each parameter group its saved settings; the parameters in it stay."""
    for group, settings in zip(optimizer.param_groups, saved, strict=True):
        for key, value in settings.items():
            if key == "params":
                continue
            if isinstance(group.get(key), Tensor):
                group[key] = torch.as_tensor(value).to(group[key])
            else:
                group[key] = tuple(value) if isinstance(value, list) else value


def dropout_calls(model: nn.Module) -> dict[str, int]:
    """How often each `PositionalDropout` was called in training, by module path."""
    return {name: module.calls for name, module in model.named_modules() if isinstance(module, PositionalDropout)}


def restore_dropout_calls(model: nn.Module, calls: Mapping[str, int]) -> None:
    """Set the saved counts, so that each layer goes on with its next mask."""
    for name, module in model.named_modules():
        if isinstance(module, PositionalDropout):
            module.calls = calls.get(name, module.calls)


def empty_state(parameter: Tensor, sharding: Sharding, like: torch.Tensor, *, on: torch.device) -> LocalTensor:
    """Zeros to read one optimizer state of a parameter into.

    Args:
        parameter: the parameter.
        sharding: the parameter's.
        like: a meta tensor of the state's full shape and dtype.
        on: the device of a scalar state; a state of the parameter's shape is on the parameter's device.
    """
    if tuple(like.shape) == sharding.shape:
        return LocalTensor(local=torch.zeros_like(parameter.detach(), dtype=like.dtype), sharding=sharding)
    whole = replicated(like.shape, rank=sharding.rank, size=sharding.size)
    return LocalTensor(local=torch.zeros(like.shape, dtype=like.dtype, device=on), sharding=whole)


def _sharding_of_state(value: Any, sharding: Sharding, name: str) -> Sharding:
    shape = tuple(value.shape) if isinstance(value, Tensor) else ()
    if shape == sharding.local_shape:
        return sharding
    if shape:
        raise CannotRunError(
            f"{name} is an optimizer's state of shape {list(shape)}, and its parameter's is "
            f"{list(sharding.local_shape)}: what it is of the full one is not known"
        )
    return replicated((), rank=sharding.rank, size=sharding.size)


def _tensor_of(value: Any, name: str) -> Tensor:
    if not isinstance(value, Tensor):
        raise CannotRunError(f"{name} is an optimizer's state of type {type(value).__name__}; tensors can be saved")
    return value.detach()


def _plain(value: Any, name: str) -> Any:
    if isinstance(value, Tensor) and value.numel() == 1:
        return value.item()
    if isinstance(value, tuple | list):
        return [_plain(one, name) for one in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise CannotRunError(f"the optimizer's {name} is a {type(value).__name__}; numbers and words can be saved")
