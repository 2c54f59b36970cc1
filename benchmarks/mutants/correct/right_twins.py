"""Each planted bug that brings a step of its own, without the bug: nothing else may be refused in it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.mutants.configuration import Configuration


def configurations() -> Iterator[Configuration]:
    """One a bug."""
    from benchmarks.mutants.bug import load_bugs  # it needs the configurations' own module

    for bug in load_bugs():
        if bug.plant is not None:
            twin = bug.configuration(planted=False)
            yield replace(twin, name=f"without {bug.id}: {twin.name}")
