"""Models: the user's model built, filled with the prover's values, converted to a precision, and sharded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from shardproof.errors import CannotRunError
from shardproof.exact.algebra.reference_constants import FLOAT32_BITS, FLOAT64_BITS
from shardproof.proving.records import SAMPLES, Precision
from shardproof.proving.running.capture import clone_parameters, local_value
from shardproof.proving.running.scheduled import ScheduledStages, is_schedule
from shardproof.proving.running.stages import name_modules
from shardproof.raised import describe_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from torch.distributed.device_mesh import DeviceMesh

    from shardproof.proving.step import Step

    Parallelize = Callable[[nn.Module, DeviceMesh], Any]  # the sharded model, or a schedule of a pipeline

# The reference's runs that tell whether a difference is there in float64 too.
IN_FLOAT64 = (Precision.FLOAT64, Precision.FLOAT32)
# Far from any seed of a user's own: a sharding that draws its own values must not draw the prover's. PyTorch's
# generator takes 32 bits of a seed.
_VALUE_SEEDS = 0x5A4D_0000
_BUFFER_SEEDS = 0x5A4E_0000
_NUDGE_SEEDS = 0x5A4F_0000
_SMALLEST_VALUE, _LARGEST_VALUE = 1e-30, 1e6  # of an initialised parameter that is not zero


def build_model(step: Step, seed: int) -> nn.Module:
    """The user's model as they build it, with PyTorch seeded.

    Raises:
        CannotRunError: it cannot be built, or is no module, or has no parameters.
    """
    torch.manual_seed(seed)
    try:
        model = step.model()
    except Exception as error:
        raise CannotRunError(f"the model cannot be built: {describe_error(error)}") from error
    if not isinstance(model, nn.Module) or not list(model.parameters()):
        raise CannotRunError(f"model() gave {type(model).__name__}; needed is a torch.nn.Module with parameters")
    for name, parameter in model.named_parameters():
        if parameter.is_complex():
            raise CannotRunError(
                f"the parameter {name} is complex; a proof takes real parameters: hold it as the last dim of "
                "torch.view_as_real, and use torch.view_as_complex of it in forward (complex buffers may stay)"
            )
    return model


def draw_parameters(model: nn.Module, seed: int) -> None:
    """Give every element of every parameter a value of its own, none of them zero.

    A value that no other element has tells where an element of a shard comes from; a zero would hide a wrong factor.
    """
    generator = torch.Generator().manual_seed(_VALUE_SEEDS + seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))


def draw_buffers(model: nn.Module, seed: int) -> dict[str, Tensor]:
    """Give floating buffers that are all zeros or all ones values of their own; returns those, in float64, by name.

    A routing bias or a running mean that is zero would hide that a sharding leaves it out. A buffer of ones (a running
    variance) gets positive values. Other buffers are masks and tables, whose numbers mean something; one element may be
    a flag that the model branches on.
    """
    generator = torch.Generator().manual_seed(_BUFFER_SEEDS + seed)
    drawn = {}
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if is_drawn(buffer):
                ones = bool((buffer == 1).all())
                draw = torch.rand if ones else torch.randn
                values = draw(buffer.shape, generator=generator, dtype=torch.float64) + 0.5 * ones
                buffer.copy_(values)
                drawn[name] = values
    return drawn


def fill_drawn_buffers(model: nn.Module, drawn: Mapping[str, Tensor], dtype: torch.dtype | None) -> None:
    """Give a training's own model the buffers that were drawn, where it holds the zeros or ones that it was built with.

    A training may load the parameters alone, or a buffer is in no state dict. A part of a buffer has to be loaded.
    """
    for name, buffer in model.named_buffers():
        local = local_value(buffer)
        if name in drawn and local.shape == drawn[name].shape and is_drawn(local):
            local.data = drawn[name].to(dtype or local.dtype, copy=True)


def is_drawn(buffer: Tensor) -> bool:
    """Whether a buffer is one that the prover draws: floating, of several elements, all of them zeros or all ones."""
    if not buffer.is_floating_point() or buffer.numel() < 2:
        return False
    return bool((buffer == 0).all()) or bool((buffer == 1).all())


def nudge_parameters(model: nn.Module, seed: int) -> None:
    """Move every element of every floating parameter a little away from the value that the user's model gives it.

    The ordinary runs start here, where training does: so they overflow where training would, and no sooner. Zeros, ones
    and equal values would hide bugs (a bias added twice is right while it is zero). A value moves by 5 to 10 percent. A
    zero gets a value of 0.05 to 0.1, or less in a wide matrix: at most 1/sqrt(fan-in), as usual initialisations draw.
    So does what is no value: memory that the user's model has left uninitialised.
    """
    generator = torch.Generator().manual_seed(_NUDGE_SEEDS + seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.is_floating_point():
                continue
            shape = parameter.shape
            share = torch.rand(shape, generator=generator, dtype=torch.float64).mul_(2).sub_(1)
            share.add_(share.sign()).mul_(0.05)  # 0.05 to 0.1, with either sign
            fan_in = parameter.numel() // shape[0] if len(shape) > 1 and shape[0] else 1
            size = parameter.double().abs()
            moved = parameter.double() * (1 + share)
            is_value = (size > _SMALLEST_VALUE) & (size < _LARGEST_VALUE)
            parameter.copy_(torch.where(is_value, moved, share * min(10 / max(fan_in, 1) ** 0.5, 1.0)))


def initial_values(model: nn.Module) -> dict[str, Tensor]:
    """What each parameter starts with, on one device or on one rank: its own plain tensor, in float64."""
    return {name: values.double() for name, values in clone_parameters(model).items()}


def load_model(step: Step, seed: int, state: Mapping[str, Tensor], precision: Precision) -> nn.Module:
    """The user's model with the values of a full state in float64, each rounded as the precision asks.

    Raises:
        CannotRunError: it cannot be built.
    """
    model = build_model(step, seed)
    if precision in (Precision.FLOAT64, Precision.FLOAT32):
        model.double()
    draw_buffers(model, seed)  # those that no state dict holds too
    model.load_state_dict({**extra_state(model), **state})
    if precision in SAMPLES[1:]:
        _shake(model, seed=SAMPLES.index(precision))
    dtype = dtype_of(precision)
    if dtype is not None:
        convert(model, dtype)
    return model


def convert(model: nn.Module, dtype: torch.dtype) -> None:
    """Convert what is floating to float32 or float64, and what is complex to the same precision (`to` loses a part)."""
    model.double() if dtype == torch.float64 else model.float()
    for buffer in model.buffers():
        if buffer.is_complex():
            buffer.data = buffer.data.to(dtype.to_complex())


def _shake(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in (one for one in model.parameters() if one.is_floating_point()):
            signs = torch.randint(2, parameter.shape, generator=generator) * 2 - 1
            moved = parameter.double() * (1 + signs * torch.finfo(parameter.dtype).eps)
            parameter.copy_(moved)


def dtype_of(precision: Precision) -> torch.dtype | None:
    """The one to which everything is converted; None where everything keeps the dtype that the user gives it."""
    if precision in SAMPLES:
        return None
    return torch.float32 if precision is Precision.FLOAT32 else torch.float64


def precisions_of(dtypes: Mapping[str, torch.dtype]) -> tuple[Precision, ...]:
    """The precisions of the reference's runs that tell its rounding noise, for a model of these dtypes."""
    if all(dtype == torch.float64 or not dtype.is_floating_point for dtype in dtypes.values()):
        return IN_FLOAT64
    return (Precision.ROUNDED, *SAMPLES)


def bits_of(dtypes: Iterable[torch.dtype]) -> int:
    """To how many bits the user's code knows its constants: those of float32, if not everything is float64.

    Code for 16-bit dtypes computes its tables in float32.
    """
    floating = {dtype for dtype in dtypes if dtype.is_floating_point}
    return FLOAT64_BITS if floating <= {torch.float64} else FLOAT32_BITS


def own_dtypes(model: nn.Module) -> dict[str, torch.dtype]:
    """The dtype of every entry of a state dict."""
    return {name: tensor.dtype for name, tensor in tensors_of_state(model).items()}


def tensors_of_state(model: nn.Module) -> dict[str, Tensor]:
    """The state dict without what `get_extra_state` of a module gives, if that is no tensor."""
    return {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}


def extra_state(model: nn.Module) -> dict[str, Any]:
    """What modules put into the state dict that is no tensor (`get_extra_state`)."""
    return {name: value for name, value in model.state_dict().items() if not isinstance(value, Tensor)}


def name_dtypes(dtypes: Mapping[str, torch.dtype]) -> str:
    """The floating ones in words: 'bfloat16', or 'bfloat16 and float32' where they are mixed."""
    names = {str(dtype).removeprefix("torch.") for dtype in dtypes.values() if dtype.is_floating_point}
    return " and ".join(sorted(names))


def make_mesh(sizes: Mapping[str, int]) -> DeviceMesh:
    """The mesh over all ranks of this world."""
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh("cpu", tuple(sizes.values()), mesh_dim_names=tuple(sizes))


def shard_model(model: nn.Module, parallelize: Parallelize, mesh: DeviceMesh) -> nn.Module:
    """The model sharded by the user, or the stages that their schedule runs on this rank.

    Raises:
        CannotRunError: `parallelize` returns neither, or something with other parameters' names; or as for
            `ScheduledStages`.
    """
    names = name_modules(model)
    before = {name for name, _ in model.named_parameters()}
    tied = {name for name, _ in model.named_parameters(remove_duplicate=False)} - before
    returned: object = parallelize(model, mesh)
    scheduled = is_schedule(returned)
    sharded = ScheduledStages(returned, names) if scheduled else returned
    if not isinstance(sharded, nn.Module):
        raise CannotRunError(
            f"parallelize(model, mesh) returned {type(sharded).__name__}; it must return the sharded model, or a "
            "schedule of torch.distributed.pipelining"
        )
    after = {name for name, _ in sharded.named_parameters()} - tied
    changed = after - before if scheduled else before ^ after  # a rank holds its own stages
    if changed:
        listed = ", ".join(sorted(changed)[:4])
        raise CannotRunError(f"parallelize changed the parameters' names ({listed}); they must keep their names")
    return sharded
