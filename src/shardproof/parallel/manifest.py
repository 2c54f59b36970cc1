"""What a checkpoint says of itself, in JSON: its tensors, the optimizer's settings, and the user's own words."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from shardproof.errors import CannotRunError
from shardproof.tensorfiles import printable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from shardproof.parallel.state import Held

VERSION = 1
NAME = "manifest.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a checkpoint says of itself.

    Attributes:
        step: how many were taken.
        tensors: full shapes and dtypes.
        settings: of the optimizer's parameter groups; None without an optimizer.
        dropout: which mask is next, by module; see `state.masks_used`.
        extra: the user's.
    """

    step: int
    tensors: Mapping[str, tuple[tuple[int, ...], torch.dtype]]
    settings: list[dict[str, Any]] | None
    dropout: Mapping[str, int]
    extra: Mapping[str, Any]

    def __post_init__(self) -> None:
        if self.step < 0:
            raise CannotRunError(f"a checkpoint of step {self.step}: give a number from 0 on")

    def to_json(self) -> str:
        tensors = {
            name: {"shape": shape, "dtype": str(dtype).removeprefix("torch.")}
            for name, (shape, dtype) in self.tensors.items()
        }
        said = {
            "version": VERSION,
            "step": self.step,
            "settings": self.settings,
            "dropout": self.dropout,
            "extra": self.extra,
            "tensors": tensors,
        }
        try:
            return json.dumps(said, indent=1) + "\n"
        except (TypeError, ValueError) as error:
            raise CannotRunError(
                f"extra cannot be written as JSON: {error}; give numbers, words, lists, dicts"
            ) from error

    @classmethod
    def read(cls, path: Path) -> Manifest:
        shown = printable(path)
        try:
            said = json.loads((path / NAME).read_text(encoding="utf-8"))
            if not (path / ".metadata").is_file():  # PyTorch would say so by two tracebacks in its log
                raise CannotRunError(f"{shown} is damaged: its .metadata is lost; take an earlier checkpoint")
            if said["version"] != VERSION:
                raise CannotRunError(f"{shown} is a checkpoint of version {said['version']}; this reads {VERSION}")
            tensors = {
                name: (tuple(map(int, one["shape"])), _dtype_of(one["dtype"])) for name, one in said["tensors"].items()
            }
            settings, dropout = said["settings"], {name: int(used) for name, used in said["dropout"].items()}
            if not all(isinstance(group["params"], list) for group in settings or []):
                raise ValueError("settings without parameters")
            return cls(step=said["step"], tensors=tensors, settings=settings, dropout=dropout, extra=said["extra"])
        except FileNotFoundError as error:
            raise CannotRunError(f"{shown} is no finished checkpoint: it has no {NAME}") from error
        except OSError as error:
            raise CannotRunError(f"{shown} cannot be read: {error.strerror}") from error
        except CannotRunError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CannotRunError(f"{shown} has a {NAME} that is damaged: {type(error).__name__} {error}") from error

    def check_model(self, model: Mapping[str, Held], path: Path) -> None:
        """The checkpoint's tensors are the model's, by name, shape and dtype."""
        saved = {
            name.removeprefix("model/"): about for name, about in self.tensors.items() if name.startswith("model/")
        }
        _check_names(saved.keys() - model.keys(), model.keys() - saved.keys(), path, "tensors")
        for name, held in model.items():
            shape, dtype = saved[name]
            if (shape, dtype) != (held.sharding.shape, held.local.dtype):
                raise CannotRunError(
                    f"{printable(path)}: {name} was saved as {dtype} {list(shape)}; the model's is {held.local.dtype} "
                    f"{list(held.sharding.shape)}"
                )

    def check_settings(self, settings: list[dict[str, Any]], path: Path) -> None:
        """The checkpoint has the optimizer's parameter groups."""
        if self.settings is None:
            raise CannotRunError(f"{printable(path)} was saved without an optimizer: load it without one")
        saved, given = ([group["params"] for group in groups] for groups in (self.settings, settings))
        if saved != given:
            raise CannotRunError(
                f"{printable(path)} has parameter groups of {[len(one) for one in saved]} parameters, the optimizer of "
                f"{[len(one) for one in given]}: they must be the same ones, in the same order"
            )
        _check_names(
            {key for group in self.settings for key in group} - {key for group in settings for key in group},
            {key for group in settings for key in group} - {key for group in self.settings for key in group},
            path,
            "settings",
        )


def _check_names(strange: set[str], missing: set[str], path: Path, what: str) -> None:
    for names, said in ((missing, "does not have"), (strange, "has what is not here:")):
        if names:
            some = ", ".join(printable(name) for name in sorted(names)[:3])
            raise CannotRunError(f"{printable(path)} {said} {len(names)} {what}: {some}{', ...' * (len(names) > 3)}")


def _dtype_of(name: object) -> torch.dtype:
    found = getattr(torch, str(name), None)
    if not isinstance(found, torch.dtype):
        raise ValueError(f"{name!r} is no dtype")  # noqa: TRY004 - of a file, not of a caller
    return found
