"""The kill matrix: each bug, whether shardproof and the baselines see it, and what shardproof says of it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from benchmarks.mutants.baselines import NAMES, see
from benchmarks.mutants.native import parallelized_natively, reference_natively, trained_natively
from benchmarks.mutants.ordinary import find_differences
from shardproof.errors import CannotRunError
from shardproof.proving.cause import CauseKind
from shardproof.report.cause_json import cause_fields

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from benchmarks.mutants.baselines import Natively
    from benchmarks.mutants.bug import Bug
    from benchmarks.mutants.configuration import Configuration
    from shardproof.proving.step import Step


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What became of one mutant.

    Attributes:
        id: of the bug.
        killed: whether shardproof saw it.
        roots: the first wrong tensors that it named, phase and name.
        causes: those that it named of them, as fields of JSON.
        refused: why it could not be run; a refusal is no kill.
        shown: what differs in ordinary float64 (or where it shows); empty for a bug that changes no number.
        seconds: that the proof took.
        baselines: which saw it; none where they cannot be run.
    """

    id: str
    killed: bool
    roots: Sequence[str]
    causes: Sequence[Mapping[str, object]]
    refused: str
    shown: str
    seconds: float
    baselines: Mapping[str, bool] = field(default_factory=dict)


def run_bug(bug: Bug, *, baselines: bool = True) -> Row:
    """Prove the mutant, one trial; show it to the baselines; and run it without either."""
    shown = show_bug(bug)  # before the prover's ranks, which are threads of this process, leave anything behind
    started = time.perf_counter()
    proof, refused = None, ""
    try:
        proof = bug.configuration().prove()
    except CannotRunError as error:
        refused = str(error)
    except Exception as error:  # noqa: BLE001 - a raw error of the prover is no kill, and the table goes on
        refused = f"not in one line: {type(error).__name__}: {error}"
    seconds = time.perf_counter() - started
    return Row(
        id=bug.id,
        killed=proof is not None and not proof.ok,
        roots=[f"{f.key.phase} {f.key.name}" for f in proof.roots] if proof else [],
        causes=[fields for f in proof.roots if (fields := cause_fields(f.cause, proof.mesh))] if proof else [],
        refused=refused,
        shown=shown,
        seconds=seconds,
        # Masks are drawn anew on every run: two right ones differ as much.
        baselines=see_bug(bug) if baselines and not bug.sizes.dropout else {},
    )


def root_right(bug: Bug, row: Row) -> bool:
    """The tensor expected is the first named; parameters' gradients have no order among them."""
    named = row.roots if bug.root.startswith("gradient ") else row.roots[:1]
    return any(fnmatchcase(one, bug.root) for one in named)


def cause_right(bug: Bug, row: Row) -> bool | None:
    """Whether one of the first causes is the expected one; None where no known relation explains the difference."""
    if bug.cause is None:
        return None
    factor = None if bug.factor is None else str(bug.factor)
    measured = bug.cause is CauseKind.INITIAL_SPREAD  # of numbers drawn: near the factor, and never it
    return any(
        str(bug.cause) in str(cause["kind"]) and (measured or cause.get("factor") == factor) for cause in row.causes
    )


def show_bug(bug: Bug) -> str:
    """What of it differs in ordinary arithmetic on real processes; "" if nothing does."""
    configuration = bug.shown_by() if bug.shown_by else bug.configuration()
    if isinstance(configuration, str):
        return configuration
    beside = replace(bug.configuration(planted=False), dropout=True) if bug.shown_beside_right else None
    try:
        return "; ".join(find_differences(configuration, dtype=bug.shown_in, beside=beside)[:2])
    except Exception as error:  # noqa: BLE001 - a bug may well stop real ranks
        return f"does not run: {type(error).__name__}: {error}"[:300]


def see_bug(bug: Bug) -> Mapping[str, bool]:
    """Which baselines see the mutant in float32; none where they cannot be run."""
    wrong, right = bug.configuration(), bug.configuration(planted=False)
    if wrong.data_axes:
        return {}
    step = wrong.make_step()
    try:
        reference, state = reference_natively(step)
        return see(reference, *(_natively(one, step, state) for one in (wrong, right)))
    except Exception:  # noqa: BLE001 - they compare only what lies on the ranks as it should
        return {}


def _natively(configuration: Configuration, step: Step, state: Mapping[str, Tensor]) -> list[Natively]:
    if configuration.candidate is not None:
        return trained_natively(step, configuration.candidate, dict(configuration.mesh), state)
    assert configuration.parallelize is not None
    return parallelized_natively(step, configuration.parallelize, configuration.devices, state)


HEADER = "| id | bug | phase | shardproof | first tensor | cause | numbers | s | " + " | ".join(NAMES) + " |"
RULE = "|" + "---|" * (8 + len(NAMES))


def format_row(bug: Bug, row: Row) -> str:
    """One line of the table."""
    cause = {None: "none known", True: "right", False: "not named"}[cause_right(bug, row)]
    cells = [
        bug.id,
        bug.name,
        bug.phase,
        "killed" if row.killed else "refused" if row.refused else "SURVIVED",
        "right" if root_right(bug, row) else f"named {row.roots[0]}" if row.roots else "-",
        cause if row.killed else "-",
        "differ" if row.shown else "NO DIFFERENCE",
        f"{row.seconds:.1f}",
        *(_seen(bug, row, name) for name in NAMES),
    ]
    return "| " + " | ".join(cells) + " |"


def _seen(bug: Bug, row: Row, name: str) -> str:
    if bug.sizes.dropout:
        return "random"
    if name not in row.baselines:
        return "n/a"
    return "seen" if row.baselines[name] else "-"
