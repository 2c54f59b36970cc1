"""`Tried`: what became of one correct configuration."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shardproof.errors import CannotRunError
from shardproof.proving.findings import Verdict

if TYPE_CHECKING:
    from benchmarks.mutants.correct.configuration import Configuration


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """What became of one correct configuration.

    Attributes:
        name: its own.
        alarm: the first causes that were named although nothing is wrong, or why it could not be run; "" if proved.
        undecided: an alarm that calls nothing wrong: all that is not proved is UNDECIDED.
        seconds: that it took.
    """

    name: str
    alarm: str
    undecided: bool
    seconds: float


def try_configuration(configuration: Configuration) -> Tried:
    """Prove it, one trial."""
    started = time.perf_counter()
    undecided = False
    try:
        proof = configuration.prove()
        causes = [f"{f.verdict} {f.key} ({f.cause})" if f.cause else f"{f.verdict} {f.key}" for f in proof.roots[:3]]
        undecided = not proof.ok and all(f.verdict.ok or f.verdict is Verdict.UNDECIDED for f in proof.findings)
        alarm = "" if proof.ok else "; ".join(causes) or "nothing was proved"
    except CannotRunError as error:
        alarm = f"not run: {error}"
    seconds = time.perf_counter() - started
    return Tried(name=configuration.name, alarm=alarm, undecided=undecided, seconds=seconds)
