"""Checkpoints of a sharded training: saved on any number of ranks, resumed on any other, whole or not there at all.

A checkpoint is a folder of `torch.distributed.checkpoint`, to which every rank writes its own blocks, and a manifest in
JSON. It is written beside its place and renamed into it at the end, so a save that is killed leaves what was there.

PyTorch's own part of it (`.metadata`) is a pickle, which runs code of its author's choice when it is loaded: load
checkpoints of your own only. For exchange there is `whole.save_model`.
"""

from __future__ import annotations

import re
import shutil
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from shardproof.errors import CannotRunError
from shardproof.parallel.checkpoint_tensor import Pieces
from shardproof.parallel.coordination import Together, flush_folder, write_flushed
from shardproof.parallel.manifest import NAME as MANIFEST
from shardproof.parallel.manifest import Manifest
from shardproof.parallel.state import (
    Held,
    empty_state,
    held_by_model,
    held_by_optimizer,
    masks_used,
    names_of_parameters,
    restore_masks_used,
    restore_settings,
    settings_of,
)
from shardproof.tensorfiles import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import nn
    from torch.optim import Optimizer

    from shardproof.parallel.axis import Axis

_NAME = re.compile(r"step-(\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What was loaded, besides tensors.

    Attributes:
        step: as it was given to `save_checkpoint`.
        extra: likewise.
    """

    step: int
    extra: Mapping[str, Any]


def save_checkpoint(
    folder: str | Path,
    model: nn.Module,
    optimizer: Optimizer | None = None,
    *,
    step: int,
    axis: Axis | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """Save parameters, buffers and the optimizer's state as `folder/step-NNNNNNNN`, of which every rank writes a part.

    Called on every rank of the program with the same arguments; the folder is one that all of them see.

    Args:
        folder: of this training's checkpoints; made if it is missing.
        model: sharded by `parallelize`, or whole.
        optimizer: over the model's parameters.
        step: how many steps were taken.
        axis: over which the model is sharded; None where every rank holds the whole.
        extra: anything else to come back with, as JSON has it: a scheduler's numbers, a position in the data.

    Returns:
        The checkpoint's path. It is on disk when this returns.

    Raises:
        CannotRunError: there is a checkpoint of this step, the folder cannot be written to, something is of a kind that
            cannot be saved, or a rank failed. What was in the folder before is as it was.
    """
    folder = Path(folder)
    together = Together(what="saving", device=next(model.parameters()).device)
    with together.agreed():
        tensors = _tensors(held_by_model(model, axis), held_by_optimizer(model, optimizer, axis) if optimizer else {})
        manifest = Manifest(
            step=step,
            tensors={name: (held.sharding.shape, held.local.dtype) for name, held in tensors.items()},
            settings=settings_of(model, optimizer) if optimizer else None,
            dropout=masks_used(model),
            extra=extra or {},
        ).to_json()
    target = folder / f"step-{step:08d}"
    beside = folder / f".{target.name}.part"
    with together.agreed(), _explained(folder, "written to"):
        if together.first:
            _make_room(target, beside)
    with together.agreed(), _explained(folder, "written to"), _quietly():
        save(
            {name: Pieces(held.local, held.sharding) for name, held in tensors.items()},
            storage_writer=FileSystemWriter(beside),
            no_dist=together.alone,
        )
    with together.agreed(), _explained(folder, "written to"):
        if together.first:
            write_flushed(beside / MANIFEST, manifest)
            flush_folder(beside)
            beside.rename(target)
            flush_folder(folder)
    return target


def load_checkpoint(
    path: str | Path, model: nn.Module, optimizer: Optimizer | None = None, *, axis: Axis | None = None
) -> Checkpoint:
    """Put a checkpoint into a model and its optimizer, however many ranks saved it and however it was sharded then.

    Called on every rank with the same arguments. Everything is read and checked before anything is changed. Load
    checkpoints of your own only: PyTorch's part of them is a pickle.

    Args:
        path: what `save_checkpoint` or `latest_checkpoint` returned.
        model: of the same parameters, sharded as it is now.
        optimizer: of the same parameter groups; its settings (learning rates) become those saved. None leaves the saved
            state unread.
        axis: as for `save_checkpoint`.

    Raises:
        CannotRunError: there is no checkpoint, it is damaged, its tensors are not those of the model by name, shape and
            dtype, its parameter groups are not the optimizer's, or a rank failed. Model and optimizer are as they were.
    """
    path = Path(path)
    together = Together(what="loading", device=next(model.parameters()).device)
    with together.agreed():
        manifest = Manifest.read(path)
        to_model = held_by_model(model, axis)
        manifest.check_model(to_model, path)
        fresh = {
            name: Held(local=torch.zeros_like(held.local), sharding=held.sharding) for name, held in to_model.items()
        }
        states = _room_for_states(manifest, model, optimizer, axis, path) if optimizer else {}
    with together.agreed(), _explained(path, "read"), _quietly():
        load(
            {name: Pieces(held.local, held.sharding) for name, held in _tensors(fresh, states).items()},
            storage_reader=FileSystemReader(path),
            no_dist=together.alone,
        )
    for name, held in to_model.items():
        held.local.copy_(fresh[name].local)
    if optimizer:
        for parameter, name in names_of_parameters(model, optimizer).items():
            optimizer.state[parameter] = {key: held.local for key, held in states.get(name, {}).items()}
        restore_settings(optimizer, manifest.settings or [])
    restore_masks_used(model, manifest.dropout)
    return Checkpoint(step=manifest.step, extra=manifest.extra)


def latest_checkpoint(folder: str | Path) -> Path | None:
    """The checkpoint of the highest step, None where there is none. Saves that did not finish are not seen.

    Raises:
        CannotRunError: the folder cannot be read.
    """
    folder = Path(folder)
    if not folder.exists():
        return None
    with _explained(folder, "read"):
        steps = {int(found[1]): path for path in folder.iterdir() if (found := _NAME.fullmatch(path.name))}
        finished = [step for step, path in steps.items() if (path / MANIFEST).is_file()]
    return steps[max(finished)] if finished else None


def _room_for_states(
    manifest: Manifest, model: nn.Module, optimizer: Optimizer, axis: Axis | None, path: Path
) -> dict[str, dict[str, Held]]:
    """Memory for every state that was saved, laid out as its parameter is now."""
    held_by_optimizer(model, optimizer, axis)  # refuses an optimizer that is not for shards
    manifest.check_settings(settings_of(model, optimizer), path)
    shardings = {name: held.sharding for name, held in held_by_model(model, axis).items()}
    parameters = {name: parameter for parameter, name in names_of_parameters(model, optimizer).items()}
    # As torch's own load_state_dict has it: counts stay on the CPU, unless the optimizer wants them with the parameter.
    with_parameter = any(group.get("capturable") or group.get("fused") for group in optimizer.param_groups)
    room: dict[str, dict[str, Held]] = {}
    for saved, (shape, dtype) in manifest.tensors.items():
        kind, _, rest = saved.partition("/")
        name, _, key = rest.rpartition("/")
        if kind != "optimizer":
            continue
        if name not in parameters or shape not in ((), shardings[name].shape):
            raise CannotRunError(
                f"{printable(path)}: {printable(rest)} of shape {list(shape)} fits no parameter's state"
            )
        parameter = parameters[name]
        place = parameter.device if with_parameter else torch.device("cpu")
        like = torch.empty(shape, dtype=dtype, device="meta")
        room.setdefault(name, {})[key] = empty_state(parameter, shardings[name], like, on=place)
    return room


def _tensors(model: Mapping[str, Held], optimizer: Mapping[str, Mapping[str, Held]]) -> dict[str, Held]:
    """All of them under one name each: "model/NAME" and "optimizer/NAME/KEY"."""
    found = {f"model/{name}": held for name, held in model.items()}
    for name, states in optimizer.items():
        found |= {f"optimizer/{name}/{key}": held for key, held in states.items()}
    return found


def _make_room(target: Path, beside: Path) -> None:
    if target.exists():
        raise CannotRunError(f"{printable(target)} exists: resume from it, remove it, or save to another folder")
    shutil.rmtree(beside, ignore_errors=True)  # what a killed save left
    beside.mkdir(parents=True)


@contextmanager
def _explained(path: Path, what: str) -> Iterator[None]:
    """What the disk or PyTorch says, in one line."""
    try:
        yield
    except CheckpointException as error:
        rank, (cause, _) = min(error.failures.items())
        raise CannotRunError(f"{printable(path)} cannot be {what}: rank {rank}: {_first_line(cause)}") from error
    except OSError as error:
        raise CannotRunError(f"{printable(path)} cannot be {what}: {error.strerror or error}") from error
    except CannotRunError:
        raise
    except (RuntimeError, ValueError, KeyError, EOFError) as error:
        raise CannotRunError(f"{printable(path)} cannot be {what}: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {printable(lines[0][:200])}" if lines else type(error).__name__


@contextmanager
def _quietly() -> Iterator[None]:
    """Without PyTorch's warning that a program of one process is one."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")
        yield
