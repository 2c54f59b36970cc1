"""`Tried`: what became of one correct configuration."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shardproof.errors import CannotRunError

if TYPE_CHECKING:
    from benchmarks.mutants.correct.configuration import Configuration


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """What became of one correct configuration.

    Attributes:
        name: its own.
        alarm: the first causes that were named although nothing is wrong, or why it could not be run; "" if proved.
        seconds: that it took.
    """

    name: str
    alarm: str
    seconds: float


def try_configuration(configuration: Configuration) -> Tried:
    """Prove it, one trial."""
    started = time.perf_counter()
    try:
        proof = configuration.prove()
        causes = [f"{f.verdict} {f.key} ({f.cause})" if f.cause else f"{f.verdict} {f.key}" for f in proof.roots[:3]]
        alarm = "" if proof.ok else "; ".join(causes) or "nothing was proved"
    except CannotRunError as error:
        alarm = f"not run: {error}"
    return Tried(name=configuration.name, alarm=alarm, seconds=time.perf_counter() - started)
