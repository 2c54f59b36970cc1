"""The whole model as one safetensors file, for exchange: what one device would have saved, from any number of ranks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from shardproof.errors import CannotRunError
from shardproof.parallel.collectives import all_gather
from shardproof.parallel.coordination import Together, flush_file, flush_folder
from shardproof.parallel.sharding import assemble, take
from shardproof.parallel.state import held_by_model
from shardproof.tensorfiles import open_tensor_file, printable
from shardproof.worlds.padding import pad

if TYPE_CHECKING:
    from torch import nn

    from shardproof.parallel.axis import Axis
    from shardproof.parallel.state import Held


def save_model(path: str | Path, model: nn.Module, *, axis: Axis | None = None) -> None:
    """Save the whole model, under the names of its `state_dict`: the single-device model loads it as it is.

    Called on every rank; the first one writes, and holds the whole model in memory for it. Tied weights are written
    under each of their names.

    Args:
        path: of the file; what is there is replaced at once, when the new one is on disk.
        model: sharded by `parallelize`, or whole.
        axis: over which it is sharded; None where every rank holds the whole.

    Raises:
        CannotRunError: a parameter does not say what it is of the full one, the file cannot be written, or a rank
            failed. The file is as it was.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path = Path(path)
    together = Together(what="saving", device=next(model.parameters()).device)
    with together.agreed():
        held = held_by_model(model, axis)
    names = _names_of(model, held)
    whole: dict[str, Tensor] = {}
    for name, one in held.items():
        full = full_tensor(one, axis)
        if together.first:
            whole |= {alias: full.cpu().clone() for alias in names[name]}
    beside = path.with_name(f".{path.name}.part")
    with together.agreed():
        if together.first:
            try:
                save_file(whole, beside, metadata={"format": "pt"})
                flush_file(beside)
                beside.replace(path)
                flush_folder(path.parent)
            except (OSError, SafetensorError) as error:
                raise CannotRunError(f"{printable(path)} cannot be written: {error}") from error


def load_model(path: str | Path, model: nn.Module, *, axis: Axis | None = None) -> None:
    """Put a whole model's safetensors file into a model, sharded as it is.

    Called on every rank; everything is read and checked before anything is changed. A tied weight may be in the file
    under any of its names.

    Raises:
        CannotRunError: the file cannot be read, its tensors are not those of the model by name, shape and dtype, or a
            rank failed. The model is as it was.
    """
    path = Path(path)
    together = Together(what="loading", device=next(model.parameters()).device)
    with together.agreed():
        held = held_by_model(model, axis)
        fresh = _read(path, held, _names_of(model, held))
    for name, one in held.items():
        one.local.copy_(fresh[name])


def full_tensor(held: Held, axis: Axis | None) -> Tensor:
    """The full tensor, on every rank: all-gathered along the axis, padding left out."""
    sharding = held.sharding
    if sharding.dim is None:
        return held.local
    if axis is None or axis.size == 1:
        return assemble([held.local], sharding)
    longest = max(sharding.lengths)
    padded = pad(held.local, dim=sharding.dim, length=longest)
    gathered = all_gather(padded, axis, dim=sharding.dim).split(longest, sharding.dim)
    parts = [part.narrow(sharding.dim, 0, n) for part, n in zip(gathered, sharding.lengths, strict=True)]
    return assemble(parts, sharding)


def _names_of(model: nn.Module, held: dict[str, Held]) -> dict[str, list[str]]:
    """Of each tensor all the names that it has in the state dict: a tied one has several."""
    places: dict[int, list[str]] = {}
    own = {name: id(tensor) for name, tensor in model.state_dict(keep_vars=True).items()}
    for name, identity in own.items():
        places.setdefault(identity, []).append(name)
    return {name: places[own[name]] for name in held}


def _read(path: Path, held: dict[str, Held], names: dict[str, list[str]]) -> dict[str, Tensor]:
    """This rank's part of every tensor in the file."""
    shown = printable(path)
    fresh = {}
    with open_tensor_file(path) as file:
        there = {entry.name for entry in file.entries}
        strange = sorted(there - {alias for aliases in names.values() for alias in aliases})
        if strange:
            raise CannotRunError(f"{shown} has {len(strange)} tensors that the model has not: {printable(strange[0])}")
        for name, one in held.items():
            found = [alias for alias in names[name] if alias in there]
            if not found:
                raise CannotRunError(f"{shown} has no tensor {name}, which the model has")
            values = [file.read(alias) for alias in found]
            full, wanted = values[0], (one.sharding.shape, one.local.dtype)
            if (tuple(full.shape), full.dtype) != wanted:
                raise CannotRunError(
                    f"{shown}: {name} is {full.dtype} {list(full.shape)}; the model's is {wanted[1]} {list(wanted[0])}"
                )
            if not all(torch.equal(full, other) for other in values[1:]):
                raise CannotRunError(f"{shown}: {' and '.join(found)} differ, and are one tensor in the model")
            fresh[name] = take(full, one.sharding)
    return fresh
