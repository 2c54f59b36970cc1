"""Matrices drawn cell by cell, with the slice that each device holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

CELL = 14.0  # the side of a cell
MOST = 32  # rows and columns that are drawn
_MOST_BANDS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixCell:
    """One element: its place, whether it is negative, how strong its colour is, and its value."""

    x: float
    y: float
    negative: bool
    strength: float
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """The slice of one device."""

    rank: int
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """A matrix as it is drawn; `words` is its text alternative."""

    name: str
    shape: str
    words: str
    width: float
    height: float
    cells: tuple[MatrixCell, ...]
    bands: tuple[Band, ...]


def draw_matrix(
    name: str,
    values: Tensor,
    *,
    split: Literal["rows", "columns"] | None = None,
    slices: tuple[slice, ...] = (),
    most_rows: int = MOST,
) -> Matrix:
    """Draw a matrix, or a vector as one row.

    Args:
        name: of it.
        values: [rows, columns] or [columns].
        split: whether devices hold rows or columns of it; None where each holds all of it.
        slices: by device, which.
        most_rows: how many are drawn.
    """
    matrix = values.reshape(1, -1) if values.ndim < 2 else values
    if values.ndim < 2 and split == "rows":
        split = "columns"  # a vector lies on its side
    shown = matrix[:most_rows, :MOST].double()
    largest = float(shown.abs().nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).max()) if shown.numel() else 0.0
    cells = tuple(
        MatrixCell(
            x=column * CELL,
            y=row * CELL,
            negative=value < 0,
            strength=round(min(1.0, abs(value) / largest) ** 0.5, 2) if largest else 0.0,
            value=f"[{row}, {column}] {value:.4g}",
        )
        for row, line in enumerate(shown.tolist())
        for column, value in enumerate(line)
    )
    rows, columns = shown.shape
    shape = " x ".join(map(str, values.shape)) or "a number"
    more = "" if shown.shape == matrix.shape else f", of which {rows} x {columns} are drawn"
    held = f"; each device holds some of its {split}" if split and slices else ""
    return Matrix(
        name=name,
        shape=shape + more,
        words=f"{name}, {shape}{more}{held}; its largest magnitude is {largest:.3g}",
        width=columns * CELL,
        height=rows * CELL,
        cells=cells,
        bands=tuple(_bands(split, slices, rows, columns)) if split else (),
    )


def _bands(split: str, slices: tuple[slice, ...], rows: int, columns: int) -> list[Band]:
    length = rows if split == "rows" else columns
    found = []
    for rank, own in enumerate(slices[:_MOST_BANDS]):
        start, stop = min(own.start, length), min(own.stop, length)
        if stop <= start:
            continue
        along, size = start * CELL, (stop - start) * CELL
        if split == "rows":
            found.append(Band(rank=rank, x=0.0, y=along, width=columns * CELL, height=size))
        else:
            found.append(Band(rank=rank, x=along, y=0.0, width=size, height=rows * CELL))
    return found
