"""The kill matrix: each bug, whether shardproof and the baselines see it, and what shardproof says of it."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from benchmarks.mutants.baselines import NAMES, see
from benchmarks.mutants.lines import Lines
from benchmarks.mutants.native import parallelized_natively, reference_natively, trained_natively
from benchmarks.mutants.sharded import shard
from benchmarks.mutants.steps import make_step, make_training
from shardproof.errors import CannotRunError
from shardproof.proving.prove import prove

if TYPE_CHECKING:
    from collections.abc import Mapping

    from benchmarks.mutants.bug import Bug
    from shardproof.proving.findings import Proof


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What became of one mutant.

    Attributes:
        bug: which.
        killed: whether shardproof saw it.
        roots: the first wrong tensors that it named, phase and name.
        causes: those that it named of them.
        refused: why it could not be run; a refusal is no kill.
        seconds: that the proof took.
        baselines: which saw it.
    """

    bug: Bug
    killed: bool
    roots: tuple[str, ...]
    causes: tuple[str, ...]
    refused: str
    seconds: float
    baselines: Mapping[str, bool]

    @property
    def root_right(self) -> bool:
        """The tensor expected is the first named; parameters' gradients have no order among them."""
        return self.bug.root in (self.roots if self.bug.root.startswith("gradient ") else self.roots[:1])

    @property
    def cause_right(self) -> bool | None:
        """None where no known relation explains the difference."""
        return any(self.bug.cause in cause for cause in self.causes) if self.bug.cause else None


def run_bug(bug: Bug, *, baselines: bool = True) -> Row:
    """Prove the mutant, one trial, and show it to the baselines."""
    started = time.perf_counter()
    proof, refused = None, ""
    try:
        proof = prove_bug(bug)
    except CannotRunError as error:
        refused = str(error)
    seconds = time.perf_counter() - started
    return Row(
        bug=bug,
        killed=proof is not None and not proof.ok,
        roots=tuple(f"{f.key.phase} {f.key.name}" for f in proof.roots) if proof else (),
        causes=tuple(f.cause for f in proof.roots) if proof else (),
        refused=refused,
        seconds=seconds,
        # Masks are drawn anew on every run: two right ones differ as much.
        baselines=see_bug(bug) if baselines and not bug.sizes.dropout else {},
    )


def prove_bug(bug: Bug) -> Proof:
    """One trial of the mutant."""
    if bug.training is not None:
        step, candidate = make_training(bug)
        return prove(step, candidate=candidate, devices=bug.devices, trials=1)
    parallelize = shard(bug.lines, sequence_parallel=bug.sequence_parallel)
    return prove(make_step(bug.sizes), parallelize=parallelize, devices=bug.devices, trials=1)


def see_bug(bug: Bug) -> Mapping[str, bool]:
    """Which baselines see the mutant in float32."""
    if bug.training is not None:
        step, mutant_training = make_training(bug)
        _, right_training = make_training(replace(bug, line="", change=None))
        reference, state = reference_natively(step)
        mutant, right = (
            trained_natively(step, training, bug.devices, state) for training in (mutant_training, right_training)
        )
        return see(reference, mutant, right)
    step = make_step(bug.sizes)
    reference, state = reference_natively(step)
    mutant, right = (
        parallelized_natively(step, shard(lines, sequence_parallel=bug.sequence_parallel), bug.devices, state)
        for lines in (bug.lines, Lines())
    )
    return see(reference, mutant, right)


HEADER = "| id | bug | phase | shardproof | first tensor | cause | s | " + " | ".join(NAMES) + " |"
RULE = "|" + "---|" * (7 + len(NAMES))


def format_row(row: Row) -> str:
    """One line of the table."""
    cause = {None: "none known", True: "right", False: "not named"}[row.cause_right]
    cells = [
        row.bug.id,
        row.bug.name,
        row.bug.phase,
        "killed" if row.killed else "refused" if row.refused else "SURVIVED",
        "right" if row.root_right else f"named {row.roots[0]}" if row.roots else "-",
        cause if row.killed else "-",
        f"{row.seconds:.1f}",
        *("random" if row.bug.sizes.dropout else "seen" if row.baselines.get(name) else "-" for name in NAMES),
    ]
    return "| " + " | ".join(cells) + " |"
