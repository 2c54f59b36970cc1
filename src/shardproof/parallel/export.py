"""The full model as one safetensors file, the same from any number of ranks as from one device."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from shardproof.errors import CannotRunError
from shardproof.parallel.collectives import all_gather
from shardproof.parallel.coordination import Coordinator, flush_file, flush_folder
from shardproof.parallel.sharding import assemble, take
from shardproof.parallel.state import tensors_of_model
from shardproof.tensorfiles import open_tensor_file, printable
from shardproof.worlds.padding import pad

if TYPE_CHECKING:
    from torch import nn

    from shardproof.parallel.axis import Axis
    from shardproof.parallel.state import LocalTensor


def save_model(path: str | Path, model: nn.Module, *, axis: Axis | None = None) -> None:
    """Save the full model under the names of its `state_dict`; the single-device model can load the file.

    Call it on every rank. The first rank holds the full model in memory and writes it. A tied weight is written under
    each of its names.

    Args:
        path: of the file. An existing one is replaced, when the new one is on disk.
        model: sharded by `parallelize`, or an ordinary one.
        axis: along which it is sharded; None where every rank holds the full model.

    Raises:
        CannotRunError: a parameter carries no sharding, the file cannot be written, or a rank failed. An existing file
            is then unchanged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path = Path(path)
    coordinator = Coordinator(task="saving", device=next(model.parameters()).device)
    with coordinator.fail_together():
        local_tensors = tensors_of_model(model, axis)
    names = _names_of(model, local_tensors)
    tensors: dict[str, Tensor] = {}
    for name, local_tensor in local_tensors.items():
        full = full_tensor(local_tensor, axis)
        if coordinator.is_first:
            tensors |= {alias: full.cpu().clone() for alias in names[name]}
    unfinished = path.with_name(f".{path.name}.part")
    with coordinator.fail_together():
        if coordinator.is_first:
            try:
                save_file(tensors, unfinished, metadata={"format": "pt"})
                flush_file(unfinished)
                unfinished.replace(path)
                flush_folder(path.parent)
            except (OSError, SafetensorError) as error:
                raise CannotRunError(f"{printable(path)} cannot be written: {error}") from error


def load_model(path: str | Path, model: nn.Module, *, axis: Axis | None = None) -> None:
    """Load a full model's safetensors file into a model, sharded in any way.

    Call it on every rank. Everything is read and checked before anything is changed. The file may hold a tied weight
    under any of its names.

    Raises:
        CannotRunError: the file cannot be read, its tensors differ from the model's in name, shape or dtype, or a rank
            failed. The model is then unchanged.
    """
    path = Path(path)
    coordinator = Coordinator(task="loading", device=next(model.parameters()).device)
    with coordinator.fail_together():
        local_tensors = tensors_of_model(model, axis)
        fresh = _read(path, local_tensors, _names_of(model, local_tensors))
    for name, local_tensor in local_tensors.items():
        local_tensor.local.copy_(fresh[name])


def full_tensor(local_tensor: LocalTensor, axis: Axis | None) -> Tensor:
    """The full tensor on every rank: an all-gather along the axis, without padding."""
    sharding = local_tensor.sharding
    if sharding.dim is None:
        return local_tensor.local
    if axis is None or axis.size == 1:
        return assemble([local_tensor.local], sharding)
    longest = max(sharding.lengths)
    padded = pad(local_tensor.local, dim=sharding.dim, length=longest)
    gathered = all_gather(padded, axis, dim=sharding.dim).split(longest, sharding.dim)
    parts = [part.narrow(sharding.dim, 0, n) for part, n in zip(gathered, sharding.lengths, strict=True)]
    return assemble(parts, sharding)


def _names_of(model: nn.Module, local_tensors: dict[str, LocalTensor]) -> dict[str, list[str]]:
    """All names of each tensor in the state dict; a tied one has several."""
    aliases: dict[int, list[str]] = {}
    own = {name: id(tensor) for name, tensor in model.state_dict(keep_vars=True).items()}
    for name, identity in own.items():
        aliases.setdefault(identity, []).append(name)
    return {name: aliases[own[name]] for name in local_tensors}


def _read(path: Path, local_tensors: dict[str, LocalTensor], names: dict[str, list[str]]) -> dict[str, Tensor]:
    """This rank's shard of every tensor in the file."""
    shown = printable(path)
    fresh = {}
    with open_tensor_file(path) as file:
        there = {entry.name for entry in file.entries}
        strange = sorted(there - {alias for aliases in names.values() for alias in aliases})
        if strange:
            raise CannotRunError(
                f"{shown} has {len(strange)} tensors that the model does not have: {printable(strange[0])}"
            )
        for name, local_tensor in local_tensors.items():
            found = [alias for alias in names[name] if alias in there]
            if not found:
                raise CannotRunError(f"{shown} has no tensor {name}, which the model has")
            values = [file.read(alias) for alias in found]
            full, wanted = values[0], (local_tensor.sharding.shape, local_tensor.local.dtype)
            if (tuple(full.shape), full.dtype) != wanted:
                raise CannotRunError(
                    f"{shown}: {name} is {full.dtype} {list(full.shape)}; the model's is {wanted[1]} {list(wanted[0])}"
                )
            if not all(torch.equal(full, other) for other in values[1:]):
                raise CannotRunError(f"{shown}: {' and '.join(found)} differ, and are one tensor in the model")
            fresh[name] = take(full, local_tensor.sharding)
    return fresh
