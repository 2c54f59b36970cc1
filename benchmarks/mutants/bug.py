"""`Bug`: the interface of a mutant file. A file in bugs/ with a `BUG` is a mutant; drop in another one.

Either it changes one line of the transformer or of its training step:

    BUG = Bug(
        id="M01",
        name="missing-row-reduce",
        phase="F",
        seen_in="Entangle paper, bugs 7 and 8",
        line="row_output",                           # the one line that it changes, a field of Lines
        change=lambda partial: partial,              # what stands there instead
        root="output embedding",                     # the first wrong tensor: phase and name
        cause=CauseKind.UNREDUCED,                   # the cause to be named; or `unexplained="why no relation does"`
    )

or it brings a step of its own, of which `plant(True)` has the bug and `plant(False)`, which is among the correct
configurations, has not: `Bug(..., plant=configuration)`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields, replace
from importlib import import_module
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from benchmarks.mutants.block import Sizes
from benchmarks.mutants.configuration import sharded, trained
from benchmarks.mutants.lines import Lines
from benchmarks.mutants.sharded import shard
from benchmarks.mutants.steps import make_step, make_training
from benchmarks.mutants.training_lines import TrainingLines

if TYPE_CHECKING:
    from collections.abc import Callable
    from fractions import Fraction

    from benchmarks.mutants.configuration import Configuration
    from shardproof.proving.cause import CauseKind

BUGS = Path(__file__).parent / "bugs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bug:
    """One bug in one line.

    Attributes:
        id: of shared list of bugs; a letter behind it where one is planted in several ways.
        name: of the bug.
        phase: F seen in the forward, B only in the backward, U only in the update, with R where replicas part; I in the
            initial values, N only in the numbers of a lower dtype.
        seen_in: where it was seen for real.
        root: what the report must name as the first wrong tensor: phase and name, as a pattern; "" for a mutant that
            is no bug.
        cause: the kind of the cause that must be named, or a word of it; None where no relation explains it.
        unexplained: why none does, of a bug without a cause.
        factor: of a cause that is a scaling.
        line: the field of `Lines` (or of `TrainingLines`, in the user's own training step) that it changes.
        change: what stands in that line instead.
        devices: ranks.
        sequence_parallel: whether the activations between layers are shards of the sequence.
        sizes: of the model.
        training: None for `parallelize`, or which of the trainings in `training.py` carries it.
        plant: instead of a line, the configuration with the bug (True) or without (False).
        shown_by: a configuration in whose ordinary run the bug shows, where it does not in its own (other inputs,
            say); or in words, what is wrong although no number is.
        shown_in: the dtype of that ordinary run.
        shown_beside_right: it shows beside the ranks of the right configuration, not beside one device: both draw.

    Without a line and without `plant` it is no bug: the correct step.
    """

    id: str
    name: str
    phase: str
    seen_in: str
    root: str
    cause: CauseKind | str | None = None
    unexplained: str = ""
    factor: Fraction | None = None
    line: str = ""
    change: Callable[..., Any] | None = None
    devices: int = 2
    sequence_parallel: bool = False
    sizes: Sizes = field(default_factory=Sizes)
    training: Literal["tensor parallel", "data parallel", "matrix optimizer"] | None = None
    plant: Callable[[bool], Configuration] | None = None
    shown_by: Callable[[], Configuration | str] | None = None
    shown_in: torch.dtype = torch.float64
    shown_beside_right: bool = False

    def __post_init__(self) -> None:
        known = {one.name for one in fields(TrainingLines if self.of_training_line else Lines)}
        if self.line and self.line not in known:
            raise ValueError(f"{self.id} changes the line {self.line!r}; there are {', '.join(sorted(known))}")
        if self.line and self.plant:
            raise ValueError(f"{self.id} changes a line and plants a configuration of its own; one of them")
        if self.root and (self.cause is None) is not bool(self.unexplained):
            raise ValueError(
                f"{self.id} needs the cause that must be named, or why no relation explains it; one of them"
            )

    @property
    def of_training_line(self) -> bool:
        """Whether the line is one of the training step, not of the sharding."""
        return self.line in {one.name for one in fields(TrainingLines)}

    @property
    def lines(self) -> Lines:
        """The sharding with the bug."""
        return Lines() if self.of_training_line or not self.line else replace(Lines(), **{self.line: self.change})

    @property
    def training_lines(self) -> TrainingLines:
        """The training step with the bug."""
        return replace(TrainingLines(), **{self.line: self.change}) if self.of_training_line else TrainingLines()

    def configuration(self, *, planted: bool = True) -> Configuration:
        """The step with the bug, or without."""
        if self.plant is not None:
            return self.plant(planted)
        bug = self if planted else replace(self, line="", change=None)
        dropout = bool(self.sizes.dropout)
        if self.training is not None:
            step, candidate = make_training(bug)
            return trained(f"{self.id} {self.name}", step, candidate, self.devices, dropout=dropout)
        parallelize = shard(bug.lines, sequence_parallel=self.sequence_parallel)
        return sharded(f"{self.id} {self.name}", make_step(self.sizes), parallelize, self.devices, dropout=dropout)


def _in_order(name: str) -> tuple[int, str]:
    """m9_... before m10_..., m26a_... before m26b_..."""
    digits = "".join(takewhile(str.isdigit, name[1:]))
    return int(digits), name


def load_bugs() -> list[Bug]:
    """Every `BUG` of the files in bugs/, in the order of the files' names.

    Raises:
        ValueError: two have the same id.
    """
    names = sorted((path.stem for path in BUGS.glob("m*.py")), key=_in_order)
    bugs = [import_module(f"benchmarks.mutants.bugs.{name}").BUG for name in names]
    if twice := sorted(one for one, count in Counter(bug.id for bug in bugs).items() if count > 1):
        raise ValueError(f"bugs need ids of their own; these come twice: {', '.join(twice)}")
    return bugs
