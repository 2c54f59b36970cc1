"""`Bug`: the interface of a mutant file. A file in bugs/ with a `BUG` is a mutant; drop in another one.

BUG = Bug(
id="M01",
name="missing-row-reduce",
phase="F",
seen_in="Entangle paper, bugs 7 and 8",
line="row_output",                               # the one line that it changes, a field of Lines
change=lambda partial: partial,                  # what stands there instead
root="output layers.0.attention.out",            # the first wrong tensor: phase and name
cause="partial values whose sum is right",       # part of the cause to be named; "" where no known one explains it
)
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from benchmarks.mutants.block import Sizes
from benchmarks.mutants.lines import Lines
from benchmarks.mutants.training_lines import TrainingLines

if TYPE_CHECKING:
    from collections.abc import Callable

BUGS = Path(__file__).parent / "bugs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bug:
    """One bug in one line.

    Attributes:
        id: of shared list of bugs; a letter behind it where one is planted in several ways.
        name: of the bug.
        phase: F seen in the forward, B only in the backward, U only in the update, with R where replicas part.
        seen_in: where it was seen for real.
        line: the field of `Lines` (or of `TrainingLines`, in the user's own training step) that it changes.
        change: what stands in that line instead.
        root: what the report must name as the first wrong tensor: phase and name; "" for a mutant that is no bug.
        cause: what the named cause must contain; empty where no known relation explains the difference.
        devices: ranks.
        sequence_parallel: whether the activations between layers are shards of the sequence.
        sizes: of the model.
        training: None for `parallelize`, or which of the trainings in `training.py` carries it.

    Without a line it is no bug: the correct step.
    """

    id: str
    name: str
    phase: Literal["F", "B", "U", "B,R", "U,R", "F,R", "-"]
    seen_in: str
    line: str
    change: Callable[..., Any] | None
    root: str
    cause: str = ""
    devices: int = 2
    sequence_parallel: bool = False
    sizes: Sizes = field(default_factory=Sizes)
    training: Literal["tensor parallel", "data parallel", "matrix optimizer"] | None = None

    def __post_init__(self) -> None:
        known = {one.name for one in fields(TrainingLines if self.of_training_line else Lines)}
        if self.line and self.line not in known:
            raise ValueError(f"{self.id} changes the line {self.line!r}; there are {', '.join(sorted(known))}")

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


def load_bugs() -> list[Bug]:
    """Every `BUG` of the files in bugs/, in the order of the files' names."""
    names = sorted(path.stem for path in BUGS.glob("m*.py"))
    return [import_module(f"benchmarks.mutants.bugs.{name}").BUG for name in names]
