"""`Tried`: what became of one correct configuration."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.mutants.ordinary import find_differences
from shardproof.errors import CannotRunError
from shardproof.proving.findings import Verdict
from shardproof.report.words import describe

if TYPE_CHECKING:
    from benchmarks.mutants.configuration import Configuration


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """What became of one correct configuration.

    Attributes:
        name: its own.
        alarm: the first causes that were named although nothing is wrong, or why it could not be run; "" if proved.
        undecided: an alarm that calls nothing wrong: all that is not proved is UNDECIDED.
        mistaken: what differs in ordinary float64: the configuration is not correct, and the mistake is ours.
        seconds: that the proof took.
    """

    name: str
    alarm: str
    undecided: bool
    mistaken: str
    seconds: float


def try_configuration(configuration: Configuration) -> Tried:
    """Run it in ordinary float64, without the prover; then prove it, one trial."""
    mistaken = see_mistake(configuration)
    started = time.perf_counter()
    undecided = False
    try:
        proof = configuration.prove()
        causes = [describe(finding) for finding in proof.roots[:3]]
        undecided = not proof.ok and all(not f.failed or f.verdict is Verdict.UNDECIDED for f in proof.findings)
        alarm = "" if proof.ok else "; ".join(causes) or "nothing was proved"
    except CannotRunError as error:
        alarm = f"not run: {error}"
    except Exception as error:  # noqa: BLE001 - a raw error of the prover is a false alarm, and the table goes on
        alarm = f"not run, and not in one line: {type(error).__name__}: {error}"
    seconds = time.perf_counter() - started
    return Tried(name=configuration.name, alarm=alarm, undecided=undecided, mistaken=mistaken, seconds=seconds)


def see_mistake(configuration: Configuration) -> str:
    """What differs from one device in ordinary float64, or why it does not run there; "" if nothing does."""
    try:
        return "; ".join(find_differences(configuration)[:3])
    except Exception as error:  # noqa: BLE001 - it is told, and the table goes on
        return f"{type(error).__name__}: {error}"[:500]
