"""Whole proofs: what a user waits for, in float32 steps, over its own runs, in bytes a parameter; and how they grow.

Each proof runs in a process of its own (whole_proof.py), so that its peak of memory is its own. One thread; AdamW, one
step, one trial where no other number is said, 128 tokens. GPT-2 small is proved where there is memory for it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from typing import TYPE_CHECKING, Any

from benchmarks.measure import Row

if TYPE_CHECKING:
    from collections.abc import Iterable

VOCABULARY, TOKENS = 1024, 64
# Layers, hidden size, ranks. The first three are for the cost by parameters.
SIZES = ((4, 128, 2), (4, 256, 2), (4, 512, 2))
DEEPER, MORE_RANKS = (8, 256, 2), (4, 256, 4)
STEPS_ALLOWED, BYTES_ALLOWED = 60, 160
TRIALS = 3  # of a proof for which no other number is asked
GPT2_SECONDS, GPT2_BYTES = 480, 20e9


def rows() -> Iterable[Row]:
    """By parameters; then growth with parameters, layers and ranks."""
    for size in SIZES:
        yield from _proof(*size)
    for size in SIZES[1:]:
        yield _each_trial(*size)
    yield from _gpt2()
    middle = measure(*SIZES[1])
    yield _growth("parameters, hidden 256 to 512", middle, measure(*SIZES[2]), "parameters")
    yield _growth("layers, 4 to 8", middle, measure(*DEEPER), "layers")
    yield _growth("ranks, 2 to 4", middle, measure(*MORE_RANKS), "ranks")


@cache
def measure(layers: int, hidden: int, ranks: int, trials: int = 1) -> dict[str, Any]:
    """What whole_proof.py prints of a GPT of these sizes."""
    return _run(*map(str, (layers, hidden, VOCABULARY, TOKENS, ranks, trials)))


def _run(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.whole_proof", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - our own code
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _proof(layers: int, hidden: int, ranks: int) -> Iterable[Row]:
    found = measure(layers, hidden, ranks)
    name = f"whole proof, {found['parameters'] / 1e6:.1f} M parameters, {ranks} ranks"
    whole = found["whole"]["cpu"]
    yield _in_steps(name, whole, found)
    yield Row(
        what=f"{name}: beside its runs", ours=whole, peer_name="floor", peer=found["floor"]["cpu"], unit="s", target=1.2
    )
    yield Row(
        what=f"{name}: memory",
        ours=found["peak bytes"] / found["parameters"],
        peer_name="allowed",
        peer=BYTES_ALLOWED,
        unit="B/par",
        target=1,
    )


def _each_trial(layers: int, hidden: int, ranks: int) -> Row:
    found = measure(layers, hidden, ranks, TRIALS)
    name = f"whole proof, {found['parameters'] / 1e6:.1f} M parameters: each of {TRIALS} trials"
    return _in_steps(name, found["whole"]["cpu"] / TRIALS, found)


def _in_steps(what: str, seconds: float, found: dict[str, Any]) -> Row:
    return Row(
        what=what,
        ours=seconds,
        peer_name="float32 step",
        peer=found["float32 step"]["cpu"],
        unit="s",
        target=STEPS_ALLOWED,
    )


def _gpt2() -> Iterable[Row]:
    """Nothing where this machine has not as much memory as the proof is allowed."""
    if os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") < 1.1 * GPT2_BYTES:
        return
    found = _run("gpt2")
    name = f"whole proof, GPT-2 small, {found['parameters'] / 1e6:.0f} M parameters"
    seconds, peak = found["whole"]["clock"], found["peak bytes"]
    yield Row(what=name, ours=seconds, peer_name="allowed", peer=GPT2_SECONDS, unit="s", target=1)
    yield Row(what=f"{name}: memory", ours=peak / 1e9, peer_name="allowed", peer=GPT2_BYTES / 1e9, unit="GB", target=1)


def _growth(what: str, smaller: dict[str, Any], larger: dict[str, Any], by: str) -> Row:
    """How often the time of the larger proof is that of the smaller one, beside how often its size is."""
    return Row(
        what=f"whole proof: growth with {what}",
        ours=larger["whole"]["cpu"] / smaller["whole"]["cpu"],
        peer_name=by,
        peer=larger[by] / smaller[by],
        unit="times",
        target=1.1,
    )
