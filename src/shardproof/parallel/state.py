"""What a training holds at one moment, by name: parameters, buffers, and the optimizer's state of each parameter.

The names are those of the model, and so the same on any number of ranks. State that has its parameter's shape lies as
the parameter does; a number (a count of steps) is the same on all ranks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from shardproof.errors import CannotRunError
from shardproof.parallel.dropout import PlacedDropout
from shardproof.parallel.optimizers import check_optimizer
from shardproof.parallel.sharding import noted_sharding, replicated

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn
    from torch.optim import Optimizer

    from shardproof.parallel.axis import Axis
    from shardproof.parallel.sharding import Sharding

Settings = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """One tensor of a rank: the program's own memory, and what it is of the full tensor."""

    local: Tensor
    sharding: Sharding


def held_by_model(model: nn.Module, axis: Axis | None) -> dict[str, Held]:
    """Parameters, tied ones under the first of their names, and the buffers that are saved with the model.

    Raises:
        CannotRunError: a parameter does not say what it is of the full one.
    """
    held = {}
    for name, parameter in model.named_parameters():
        held[name] = Held(local=parameter.detach(), sharding=noted_sharding(parameter, axis, name=name))
    persistent = model.state_dict(keep_vars=True)
    rank, size = (axis.rank, axis.size) if axis else (0, 1)
    for name, buffer in model.named_buffers():
        if name in persistent:
            held[name] = Held(local=buffer.detach(), sharding=replicated(buffer.shape, rank=rank, size=size))
    return held


def held_by_optimizer(model: nn.Module, optimizer: Optimizer, axis: Axis | None) -> dict[str, dict[str, Held]]:
    """The optimizer's state of each parameter that has some, by the parameter's name.

    Raises:
        CannotRunError: the optimizer is not for shards, has parameters that are not the model's, or state that is
            neither of its parameter's shape nor a number.
    """
    check_optimizer(optimizer)
    names = names_of_parameters(model, optimizer)
    held: dict[str, dict[str, Held]] = {}
    for parameter, name in names.items():
        sharding = noted_sharding(parameter, axis, name=name)
        for key, value in optimizer.state.get(parameter, {}).items():
            if value is not None:
                held.setdefault(name, {})[key] = Held(
                    local=_tensor_of(value, f"{name}/{key}"), sharding=_lying_as(value, sharding, f"{name}/{key}")
                )
    return held


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
        CannotRunError: a setting is not a number, a word, or a tuple of such.
    """
    names = names_of_parameters(model, optimizer)
    settings = []
    for group in optimizer.param_groups:
        plain = {key: _plain(value, key) for key, value in group.items() if key not in ("params", "param_names")}
        settings.append(plain | {"params": [names[parameter] for parameter in group["params"]]})
    return settings


def restore_settings(optimizer: Optimizer, saved: list[Settings]) -> None:
    """Give each parameter group the settings that were saved; its parameters stay."""
    for group, settings in zip(optimizer.param_groups, saved, strict=True):
        for key, value in settings.items():
            if key == "params":
                continue
            if isinstance(group.get(key), Tensor):
                group[key] = torch.as_tensor(value).to(group[key])
            else:
                group[key] = tuple(value) if isinstance(value, list) else value


def masks_used(model: nn.Module) -> dict[str, int]:
    """Of each `PlacedDropout` how many masks it has used, by the module's name."""
    return {name: module.calls for name, module in model.named_modules() if isinstance(module, PlacedDropout)}


def restore_masks_used(model: nn.Module, used: Mapping[str, int]) -> None:
    """Go on with the next mask. PyTorch's own dropout draws from a generator, which is the program's."""
    for name, module in model.named_modules():
        if isinstance(module, PlacedDropout):
            module.calls = used.get(name, module.calls)


def empty_state(parameter: Tensor, sharding: Sharding, like: torch.Tensor, *, on: torch.device) -> Held:
    """Memory for one state of a parameter, to be read into.

    Args:
        parameter: whose.
        sharding: its.
        like: of the state's full shape and dtype, on the meta device.
        on: where a number is kept; what has the parameter's shape is kept beside it.
    """
    if tuple(like.shape) == sharding.shape:
        return Held(local=torch.zeros_like(parameter.detach(), dtype=like.dtype), sharding=sharding)
    whole = replicated(like.shape, rank=sharding.rank, size=sharding.size)
    return Held(local=torch.zeros(like.shape, dtype=like.dtype, device=on), sharding=whole)


def _lying_as(value: Any, sharding: Sharding, name: str) -> Sharding:
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
