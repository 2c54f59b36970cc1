"""What a worker does: prove one mutant or one correct configuration, and run it without the prover too."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from benchmarks.mutants.bug import load_bugs
from benchmarks.mutants.correct import configurations
from benchmarks.mutants.matrix import run_bug
from benchmarks.mutants.tried import try_configuration

if TYPE_CHECKING:
    from collections.abc import Mapping

    from benchmarks.mutants.bug import Bug
    from benchmarks.mutants.configuration import Configuration


@dataclass(frozen=True, slots=True)
class Job:
    """One mutant by its id, or one correct configuration by its name."""

    kind: Literal["bug", "correct"]
    name: str


def do(job: Job) -> dict[str, Any]:
    """A `Row` or a `Tried`, as a dict of JSON values."""
    if job.kind == "bug":
        return asdict(run_bug(_bugs()[job.name]))
    return asdict(try_configuration(_configurations()[job.name]))


@cache
def _bugs() -> Mapping[str, Bug]:
    return {bug.id: bug for bug in load_bugs()}


@cache
def _configurations() -> Mapping[str, Configuration]:
    return {one.name: one for one in configurations()}
