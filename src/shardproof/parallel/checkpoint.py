"""Checkpoints of a sharded training: saved on any number of ranks, resumed on any other number.

A checkpoint is a folder of `torch.distributed.checkpoint`, to which every rank writes the pieces that it counts, and a
manifest in JSON. It is written under a temporary name and renamed at the end, so a save that is killed leaves the
earlier checkpoints as they were, and no new one.

PyTorch's part of it (`.metadata`) is a pickle, which can run any code when it is loaded: load only your own
checkpoints. To give a model to others, use `export.save_model`.
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
from shardproof.parallel.checkpoint_tensor import CheckpointTensor
from shardproof.parallel.coordination import Coordinator, flush_folder, write_flushed
from shardproof.parallel.manifest import NAME as MANIFEST
from shardproof.parallel.manifest import Manifest
from shardproof.parallel.state import (
    LocalTensor,
    dropout_calls,
    empty_state,
    names_of_parameters,
    restore_dropout_calls,
    restore_settings,
    settings_of,
    states_of_optimizer,
    tensors_of_model,
)
from shardproof.tensorfiles import first_line, printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import nn
    from torch.optim import Optimizer

    from shardproof.parallel.axis import Axis

_NAME = re.compile(r"step-(\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What `load_checkpoint` returns: the values that were given to `save_checkpoint`.

    Attributes:
        step: the number of steps taken.
        extra: the program's own values.
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
    """Save parameters, buffers and the optimizer's state as `folder/step-NNNNNNNN`; every rank writes a part.

    Call it on every rank of the program with the same arguments. All ranks must see the folder.

    Args:
        folder: of this training's checkpoints; created if it is missing.
        model: sharded by `parallelize`, or an ordinary one.
        optimizer: over the model's parameters.
        step: the number of steps taken.
        axis: along which the model is sharded; None where every rank holds the full model.
        extra: any other JSON values to save: a scheduler's numbers, a position in the data.

    Returns:
        The checkpoint's path. It is on disk when this returns.

    Raises:
        CannotRunError: a checkpoint of this step exists, the folder cannot be written to, something cannot be saved, or
            a rank failed. Earlier checkpoints are then unchanged.
    """
    folder = Path(folder)
    coordinator = Coordinator(task="saving", device=next(model.parameters()).device)
    with coordinator.fail_together():
        tensors = _tensors(
            tensors_of_model(model, axis), states_of_optimizer(model, optimizer, axis) if optimizer else {}
        )
        manifest = Manifest(
            step=step,
            tensors={name: (held.sharding.shape, held.local.dtype) for name, held in tensors.items()},
            settings=settings_of(model, optimizer) if optimizer else None,
            dropout=dropout_calls(model),
            extra=extra or {},
        ).to_json()
    target = folder / f"step-{step:08d}"
    unfinished = folder / f".{target.name}.part"
    with coordinator.fail_together(), _explained(folder, "written to"):
        if coordinator.is_first:
            _make_folder(target, unfinished)
    with coordinator.fail_together(), _explained(folder, "written to"), _quietly():
        save(
            {name: CheckpointTensor(held.local, held.sharding) for name, held in tensors.items()},
            storage_writer=FileSystemWriter(unfinished),
            no_dist=coordinator.is_alone,
        )
    with coordinator.fail_together(), _explained(folder, "written to"):
        if coordinator.is_first:
            write_flushed(unfinished / MANIFEST, manifest)
            flush_folder(unfinished)
            unfinished.rename(target)
            flush_folder(folder)
    return target


def load_checkpoint(
    path: str | Path, model: nn.Module, optimizer: Optimizer | None = None, *, axis: Axis | None = None
) -> Checkpoint:
    """Load a checkpoint into a model and its optimizer; it may have been saved on another number of ranks.

    Call it on every rank with the same arguments. Everything is read and checked before anything is changed. Load only
    your own checkpoints: PyTorch's part of them is a pickle.

    Args:
        path: as `save_checkpoint` or `latest_checkpoint` returned it.
        model: with the saved parameters, sharded in any way.
        optimizer: with the saved parameter groups; its settings (learning rates) become the saved ones. None: the saved
            optimizer state is not read.
        axis: as for `save_checkpoint`.

    Raises:
        CannotRunError: there is no checkpoint, it is damaged, its tensors differ from the model's in name, shape or
            dtype, its parameter groups differ from the optimizer's, or a rank failed. Model and optimizer are then
            unchanged.
    """
    path = Path(path)
    coordinator = Coordinator(task="loading", device=next(model.parameters()).device)
    with coordinator.fail_together():
        manifest = Manifest.read(path)
        current = tensors_of_model(model, axis)
        manifest.check_model(current, path)
        fresh = {
            name: LocalTensor(local=torch.zeros_like(held.local), sharding=held.sharding)
            for name, held in current.items()
        }
        states = _empty_states(manifest, model, optimizer, axis, path) if optimizer else {}
    with coordinator.fail_together(), _explained(path, "read"), _quietly():
        load(
            {name: CheckpointTensor(held.local, held.sharding) for name, held in _tensors(fresh, states).items()},
            storage_reader=FileSystemReader(path),
            no_dist=coordinator.is_alone,
        )
    for name, held in current.items():
        held.local.copy_(fresh[name].local)
    if optimizer:
        for parameter, name in names_of_parameters(model, optimizer).items():
            optimizer.state[parameter] = {key: held.local for key, held in states.get(name, {}).items()}
        restore_settings(optimizer, manifest.settings or [])
    restore_dropout_calls(model, manifest.dropout)
    return Checkpoint(step=manifest.step, extra=manifest.extra)


def latest_checkpoint(folder: str | Path) -> Path | None:
    """The finished checkpoint of the highest step; None where there is none.

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


def _empty_states(
    manifest: Manifest, model: nn.Module, optimizer: Optimizer, axis: Axis | None, path: Path
) -> dict[str, dict[str, LocalTensor]]:
    """Zeros for every saved optimizer state, sharded as its parameter is now."""
    states_of_optimizer(model, optimizer, axis)  # raises where the optimizer is not right on shards
    manifest.check_settings(settings_of(model, optimizer), path)
    shardings = {name: held.sharding for name, held in tensors_of_model(model, axis).items()}
    parameters = {name: parameter for parameter, name in names_of_parameters(model, optimizer).items()}
    # As in torch's load_state_dict: step counts stay on the CPU, unless the optimizer needs them beside the parameter.
    with_parameter = any(group.get("capturable") or group.get("fused") for group in optimizer.param_groups)
    states: dict[str, dict[str, LocalTensor]] = {}
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
        device = parameter.device if with_parameter else torch.device("cpu")
        like = torch.empty(shape, dtype=dtype, device="meta")
        states.setdefault(name, {})[key] = empty_state(parameter, shardings[name], like, on=device)
    return states


def _tensors(
    model: Mapping[str, LocalTensor], optimizer: Mapping[str, Mapping[str, LocalTensor]]
) -> dict[str, LocalTensor]:
    """All tensors by their names in the checkpoint: "model/NAME" and "optimizer/NAME/KEY"."""
    found = {f"model/{name}": held for name, held in model.items()}
    for name, states in optimizer.items():
        found |= {f"optimizer/{name}/{key}": held for key, held in states.items()}
    return found


def _make_folder(target: Path, unfinished: Path) -> None:
    if target.exists():
        raise CannotRunError(f"{printable(target)} exists: resume from it, remove it, or save to another folder")
    shutil.rmtree(unfinished, ignore_errors=True)  # left by a save that was killed
    unfinished.mkdir(parents=True)


@contextmanager
def _explained(path: Path, what: str) -> Iterator[None]:
    """Turn an error of the file system or of PyTorch into a CannotRunError of one line."""
    try:
        yield
    except CheckpointException as error:
        rank, (cause, _) = min(error.failures.items())
        raise CannotRunError(
            f"{printable(path)} cannot be {what}: rank {rank}: {first_line(cause, kind=True)}"
        ) from error
    except OSError as error:
        raise CannotRunError(f"{printable(path)} cannot be {what}: {error.strerror or error}") from error
    except CannotRunError:
        raise
    except (RuntimeError, ValueError, KeyError, EOFError) as error:
        raise CannotRunError(f"{printable(path)} cannot be {what}: {first_line(error, kind=True)}") from error


@contextmanager
def _quietly() -> Iterator[None]:
    """Suppress PyTorch's warning that there is no process group."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")
        yield
