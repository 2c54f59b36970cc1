"""Entries of a plan that match no module, which leave the model as it was without an error.

PyTorch's `parallelize_module` warns of them; a sharding of ours notes them on the model that it returns.
"""

from __future__ import annotations

import re
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from torch.nn import Module

# Where `parallel.parallelize` and the transformers adapter note them.
_NOTED = "shardproof_unmatched"
_WARNING = re.compile(r"Parallelize plan key '(.*?)' could not be resolved")


def noted_entries(model: Module) -> tuple[str, ...]:
    """The entries that are noted on a sharded model."""
    return tuple(map(str, getattr(model, _NOTED, ())))


def note_entries(model: Module, entries: Iterable[str]) -> None:
    """Note entries that match no module on a sharded model."""
    setattr(model, _NOTED, tuple(entries))


@contextmanager
def unmatched_entries_noted() -> Iterator[list[str]]:
    """Inside, PyTorch's warnings of such entries fill the list that is returned, and are not shown; others are.

    Warnings belong to the whole process, so this goes around all ranks that are threads, not around each.
    """
    entries: list[str] = []
    with warnings.catch_warnings():
        warnings.filterwarnings("always", message="Parallelize plan key ")
        show = warnings.showwarning

        def note(message: Any, category: Any, *where: Any, **more: Any) -> None:
            found = _WARNING.match(str(message))
            if found is None:
                show(message, category, *where, **more)
            elif found[1] not in entries:
                entries.append(found[1])

        warnings.showwarning = note
        yield entries
