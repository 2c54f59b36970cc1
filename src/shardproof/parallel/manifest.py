"""A checkpoint's manifest, in JSON: its tensors, the optimizer's settings, the program's own values."""

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

    from shardproof.parallel.state import LocalTensor

VERSION = 1
NAME = "manifest.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The description of a checkpoint.

    Attributes:
        step: the number of steps taken.
        tensors: full shape and dtype of each, by name.
        settings: of the optimizer's parameter groups; None without an optimizer.
        dropout: the number of calls, by module path; see `state.dropout_calls`.
        extra: the program's own values.
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
        """The manifest file's text.

        Raises:
            CannotRunError: `extra` cannot be written as JSON.
        """
        tensors = {
            name: {"shape": shape, "dtype": str(dtype).removeprefix("torch.")}
            for name, (shape, dtype) in self.tensors.items()
        }
        document = {
            "version": VERSION,
            "step": self.step,
            "settings": self.settings,
            "dropout": self.dropout,
            "extra": self.extra,
            "tensors": tensors,
        }
        try:
            return json.dumps(document, indent=1) + "\n"
        except (TypeError, ValueError) as error:
            raise CannotRunError(
                f"extra cannot be written as JSON: {error}; give numbers, strings, lists, dicts"
            ) from error

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Read the manifest of the checkpoint in folder `path`.

        Raises:
            CannotRunError: the folder is no finished checkpoint, is damaged, or has another version.
        """
        shown = printable(path)
        try:
            document = json.loads((path / NAME).read_text(encoding="utf-8"))
            if not (path / ".metadata").is_file():  # PyTorch would log two tracebacks
                raise CannotRunError(f"{shown} is damaged: its .metadata is lost; take an earlier checkpoint")
            if document["version"] != VERSION:
                raise CannotRunError(f"{shown} is a checkpoint of version {document['version']}; this reads {VERSION}")
            tensors = {
                name: (tuple(map(int, one["shape"])), _dtype_of(one["dtype"]))
                for name, one in document["tensors"].items()
            }
            settings = document["settings"]
            dropout = {name: int(calls) for name, calls in document["dropout"].items()}
            if not all(isinstance(group["params"], list) for group in settings or []):
                raise ValueError("settings without parameters")
            return cls(
                step=document["step"], tensors=tensors, settings=settings, dropout=dropout, extra=document["extra"]
            )
        except FileNotFoundError as error:
            raise CannotRunError(f"{shown} is no finished checkpoint: it has no {NAME}") from error
        except OSError as error:
            raise CannotRunError(f"{shown} cannot be read: {error.strerror}") from error
        except CannotRunError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CannotRunError(f"{shown} has a {NAME} that is damaged: {type(error).__name__} {error}") from error

    def check_model(self, model: Mapping[str, LocalTensor], path: Path) -> None:
        """Raise unless the checkpoint's tensors are the model's, by name, shape and dtype."""
        saved = {
            name.removeprefix("model/"): entry for name, entry in self.tensors.items() if name.startswith("model/")
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
        """Raise unless the checkpoint has the optimizer's parameter groups and settings."""
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


def _check_names(unexpected: set[str], missing: set[str], path: Path, what: str) -> None:
    for names, text in ((missing, "does not have {} {}"), (unexpected, "has {} unexpected {}")):
        if names:
            some = ", ".join(printable(name) for name in sorted(names)[:3])
            more = ", ..." if len(names) > 3 else ""
            raise CannotRunError(f"{printable(path)} {text.format(len(names), what)}: {some}{more}")


def _dtype_of(name: object) -> torch.dtype:
    found = getattr(torch, str(name), None)
    if not isinstance(found, torch.dtype):
        raise ValueError(f"{name!r} is no dtype")  # noqa: TRY004 - of a file, not of a caller
    return found
