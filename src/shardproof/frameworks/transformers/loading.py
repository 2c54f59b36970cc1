"""Loading: a model loaded sharded from a checkpoint, and saved again, has the weights of the single device.

The model's weights are numbers that are all distinct, so that an element that is missing, there twice or in another
place can be told. They are written by `save_pretrained`; each rank, a gloo process, loads them by
`from_pretrained(distributed_config=...)`, which reads no more than the rank's shards, and saves them again. Two things
are compared, number by number: each rank's shards with those of a model that was loaded whole and then split by the
plan, as a proof has it, and what was saved again with what was saved first.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch

from shardproof.errors import CannotRunError
from shardproof.frameworks.transformers.configuration import load_configuration
from shardproof.frameworks.transformers.crashes import ShardedCrashError
from shardproof.frameworks.transformers.models import build_model, find_model_class, require_memory
from shardproof.frameworks.transformers.plans import OwnPlan, PlanChange
from shardproof.frameworks.transformers.step import MOST_MEMORY, OneDeviceError
from shardproof.raised import describe_error
from shardproof.worlds.make import make_world

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from torch import Tensor, nn

    from shardproof.worlds.communicator import Communicator

SAVED = "saved again"
_TIMEOUT = 240.0
_FAILS = "fails when it is loaded sharded"  # what a rank's message says


@dataclass(frozen=True, slots=True, kw_only=True)
class Misplaced:
    """A parameter or buffer that is not as on a single device.

    Attributes:
        name: of the parameter or buffer.
        where: 'rank 1', or 'saved again'.
        said: how it differs, in words.
    """

    name: str
    where: str
    said: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Loading:
    """What loading a model sharded, and saving it again, has given.

    Attributes:
        model: the name of its class.
        devices: how many ranks.
        tensors: how many parameters and buffers were compared.
        split: how many of these no rank holds whole.
        misplaced: those that differ, in the model's order.
    """

    model: str
    devices: int
    tensors: int
    split: int
    misplaced: tuple[Misplaced, ...]

    @property
    def ok(self) -> bool:
        """Whether every element landed where it belongs, once."""
        return not self.misplaced


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loaded:
    """What one rank holds: loaded sharded, and split after having been loaded whole."""

    sharded: Mapping[str, Tensor]
    split: Mapping[str, Tensor]


def check_loading(
    source: str,
    settings: Mapping[str, Any],
    devices: int,
    *,
    full_size: bool = False,
    most_memory: int = MOST_MEMORY,
    prepare: Callable[[], None] | None = None,
) -> Loading:
    """Save a model, load it sharded on gloo processes, save it again, and compare.

    Args:
        source: a model type ('qwen3'), a path to a config.json, or to a folder that holds one.
        settings: configuration entries, over the small ones.
        devices: how many ranks, on an axis tp.
        full_size: keep the sizes of the configuration.
        most_memory: bytes of the parameters in float64.
        prepare: called on each rank before anything is loaded.

    Raises:
        CannotRunError: transformers is not installed, has no such model, or the model has no plan.
        OneDeviceError: the checkpoint does not give back the weights on one device.
        ShardedCrashError: transformers' code fails when the model is loaded sharded or saved again.
    """
    if devices < 2:
        raise CannotRunError(f"loading was asked for on {devices} rank; give at least 2 by --devices")
    config = load_configuration(source, settings, full_size=full_size)
    _silence()
    model_class = find_model_class(config)
    require_memory(model_class, config, most_memory)
    with tempfile.TemporaryDirectory(prefix="shardproof-loading-") as name:
        first, again = Path(name) / "first", Path(name) / "again"
        try:
            model = build_model(model_class, config).double()
            number_elements(model)
            expected = _tensors(model)
            model.save_pretrained(first)  # type: ignore[operator]
            reloaded = _tensors(_load_whole(model_class, first))
        except CannotRunError:
            raise
        except Exception as error:
            raise OneDeviceError(
                f"{model_class.__name__} cannot be saved and loaded on one device: {describe_error(error)}"
            ) from error
        for one in compare_tensors(expected, reloaded, SAVED):
            raise OneDeviceError(
                f"{model_class.__name__} saved and loaded again on one device has other weights: {one.name}: {one.said}"
            )
        work = partial(_load_and_save, model_class=model_class, first=first, again=again, prepare=prepare)
        held = _run_ranks(work, devices)
        found = _tensors(_load_whole(model_class, again))
    misplaced = [one for rank, each in enumerate(held) for one in compare_tensors(each.split, each.sharded, rank)]
    misplaced += compare_tensors(expected, found, SAVED)
    split = sum(held[0].sharded[name].shape != x.shape for name, x in expected.items() if name in held[0].sharded)
    order = list(expected)
    misplaced.sort(key=lambda one: order.index(one.name) if one.name in order else len(order))
    return Loading(
        model=model_class.__name__, devices=devices, tensors=len(expected), split=split, misplaced=tuple(misplaced)
    )


def _run_ranks(work: Callable[[Communicator], _Loaded], devices: int) -> list[_Loaded]:
    try:
        return make_world("spawned", size=devices, timeout=_TIMEOUT).run(work)
    except CannotRunError as error:
        if _FAILS in str(error):
            raise ShardedCrashError(str(error)) from error
        raise


def number_elements(model: nn.Module) -> None:
    """Give every floating element of the model's state a number of its own: 1, 2, 3, ..."""
    start = 1
    with torch.no_grad():
        for x in _tensors(model, keep=True).values():
            x.copy_(torch.arange(start, start + x.numel(), dtype=x.dtype).view(x.shape))
            start += x.numel()


def compare_tensors(
    expected: Mapping[str, Tensor], found: Mapping[str, Tensor], where: int | str
) -> Iterator[Misplaced]:
    """The tensors that differ, of elements with numbers of their own."""
    place = f"rank {where}" if isinstance(where, int) else where
    for name, x in expected.items():
        said = "missing" if name not in found else describe_difference(x, found[name])
        if said:
            yield Misplaced(name=name, where=place, said=said)
    for name in found:
        if name not in expected:
            yield Misplaced(name=name, where=place, said="there, and not on a single device")


def describe_difference(expected: Tensor, found: Tensor) -> str:
    """How a tensor of distinct numbers differs from another; empty where it does not."""
    if expected.shape == found.shape and torch.equal(expected, found.to(expected.dtype)):
        return ""
    if expected.shape != found.shape:
        parts = [f"has shape {list(found.shape)} in place of {list(expected.shape)}"]
    else:
        parts = []
    own, values = expected.reshape(-1), found.to(expected.dtype).reshape(-1)
    missing = int((~torch.isin(own, values)).sum())
    known = values[torch.isin(values, own)]
    doubled = known.numel() - known.unique().numel()
    others = values.numel() - known.numel()
    total = own.numel()
    parts += [f"{missing} of {total} elements are missing"] if missing else []
    parts += [f"{doubled} of {total} elements are there twice"] if doubled else []
    parts += [f"{others} of {values.numel()} are no elements of it"] if others else []
    if expected.shape == found.shape and not (missing or doubled or others):
        parts.append(f"{int((expected != found.to(expected.dtype)).sum())} of {total} elements are in another place")
    return ", ".join(parts)


# ----------------------------------------------------------------------------------------------------------------------


def _load_and_save(
    communicator: Communicator, *, model_class: Any, first: Path, again: Path, prepare: Callable[[], None] | None
) -> _Loaded:
    """On each rank."""
    from torch.distributed.device_mesh import init_device_mesh
    from transformers.distributed.configuration_utils import DistributedConfig

    _silence()
    if prepare is not None:
        prepare()
    mesh = init_device_mesh("cpu", (communicator.size,), mesh_dim_names=("tp",))
    split = _tensors(OwnPlan(change=PlanChange())(_load_whole(model_class, first), mesh))
    try:
        config = DistributedConfig(tp_size=communicator.size)
        with _without_accelerate():
            model = model_class.from_pretrained(first, dtype=torch.float64, distributed_config=config)
        sharded = _tensors(model)
        model.save_pretrained(again)
    except Exception as error:
        raise ShardedCrashError(
            f"{model_class.__name__} loads on one device and fails when it is loaded sharded and saved again: "
            f"{describe_error(error)}"
        ) from error
    return _Loaded(sharded=sharded, split=split)


def _silence() -> None:
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def _without_accelerate() -> AbstractContextManager[object]:
    """Inside, from_pretrained does not ask for accelerate: for one device it calls nothing of it."""
    return patch("transformers.integrations.accelerate.is_accelerate_available", return_value=True)


def _load_whole(model_class: Any, folder: Path) -> nn.Module:
    model: nn.Module = model_class.from_pretrained(folder, dtype=torch.float64)
    return model


def _tensors(model: nn.Module, *, keep: bool = False) -> dict[str, Tensor]:
    """The floating tensors of the model's state, of a DTensor this rank's part; copies, unless they are kept."""
    from torch.distributed.tensor import DTensor

    found: dict[str, Tensor] = {}
    names = {*model.state_dict()}
    for name, x in (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)):
        if name not in names or not x.is_floating_point():
            continue
        local = x.to_local() if isinstance(x, DTensor) else x
        found[name] = local if keep else local.detach().clone()
    return found
