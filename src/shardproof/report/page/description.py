"""What the page of a proof says, as plain values: a template writes them down and computes nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class Tone(StrEnum):
    """How good a thing is: its colour and its mark. The values are names of classes in the style sheet."""

    GOOD = "good"
    BAD = "bad"
    OPEN = "open"  # neither right nor wrong
    PLAIN = "plain"  # nothing is said of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """A number of the proof, what it counts, and what that means."""

    label: str
    value: str
    meaning: str = ""
    share: float | None = None  # of a whole, for a bar: 0 to 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Rectangle:
    """A part of a drawing, in units of the drawing."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RankDrawing:
    """The part that one rank holds of a tensor, in a box of 24 by 14."""

    rank: int
    parts: tuple[Rectangle, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardDrawing:
    """Which part of a tensor each rank holds: drawn, and in words."""

    ranks: tuple[RankDrawing, ...]
    words: str
    more: int = 0  # ranks that are not drawn


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One pass through one module in the picture of a step: an output, or the gradient of one."""

    tone: Tone
    words: str
    href: str = ""
    shape: str = ""
    shards: ShardDrawing | None = None
    first: bool = False  # the first divergence
    follows: bool = False  # wrong, and only because something before it is


@dataclass(frozen=True, slots=True, kw_only=True)
class Chip:
    """A parameter of a module: how good its gradient, state and update are."""

    name: str
    tone: Tone
    words: str
    href: str = ""
    first: bool = False
    follows: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Collectives of one kind at one place."""

    kind: str
    count: int
    size: str
    words: str
    missing: bool = False  # it is not there, and would mend the first cause


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleRow:
    """A module in the picture of a step; or the loss, or the gradient norm."""

    name: str
    label: str
    depth: int
    forward: tuple[Cell, ...] = ()
    backward: tuple[Cell, ...] = ()
    parameters: tuple[Chip, ...] = ()
    forward_traffic: tuple[Traffic, ...] = ()
    backward_traffic: tuple[Traffic, ...] = ()
    first: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPicture:
    """One step: modules in execution order."""

    step: int
    rows: tuple[ModuleRow, ...]
    left_out: int
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CauseCard:
    """A first cause: which tensors, what is the matter, what would mend it, and more."""

    title: str
    names: str
    verdict: str
    tone: Tone
    cause: str
    mend: str
    details: tuple[str, ...]
    href: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatMap:
    """The values of one rank beside the reference's; the cells themselves are in the page's data, under `key`."""

    key: str
    rank: int
    rows: int
    columns: int
    caption: str
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorRow:
    """One tensor: what is said of it in a line, and the rest when it is opened."""

    id: str
    name: str
    call: str
    verdict: str
    tone: Tone
    root: bool
    open: bool
    said: str
    facts: tuple[tuple[str, str], ...]
    shards: ShardDrawing | None = None
    maps: tuple[HeatMap, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSection:
    """The tensors of one step and phase."""

    title: str
    phase: str
    counts: str
    tone: Tone
    open: bool
    rows: tuple[TensorRow, ...]
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlotPoint:
    """One tensor in the plot of errors: its place, and the tensor that it leads to."""

    x: float
    y: float
    tone: Tone
    words: str
    href: str
    follows: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PlotLine:
    """A horizontal line with a label, or a vertical one."""

    at: float
    label: str
    strong: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NoisePlot:
    """The error of each tensor in units of rounding noise, over the depth of the step."""

    width: float
    height: float
    points: tuple[PlotPoint, ...]
    levels: tuple[PlotLine, ...]
    phases: tuple[PlotLine, ...]
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProofPage:
    """The whole page.

    Attributes:
        values: of heat maps, by key: base64 of float32, little-endian, and of a byte for each cell that differs.
        certificate: base64 of the gzipped JSON; empty without one.
    """

    title: str
    answer: str
    tone: Tone
    sentence: str
    subject: str
    facts: tuple[Fact, ...]
    causes: tuple[CauseCard, ...]
    more_causes: int
    follows: str
    picture: StepPicture | None
    plot: NoisePlot | None
    sections: tuple[TensorSection, ...]
    verdicts: tuple[tuple[str, Tone, int], ...]
    phases: tuple[str, ...]
    notes: tuple[str, ...]
    about: tuple[tuple[str, str], ...]
    values: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    certificate: str = ""
    compact: bool = False  # so many tensors that each is told in few words
