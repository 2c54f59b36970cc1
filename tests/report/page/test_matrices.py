"""Matrices: a cell for each element, and a frame for each device where it holds its slice."""

import torch

from shardproof.report.page.matrices import CELL, draw_matrix


def test_a_cell_has_its_place_its_sign_and_its_value():
    drawn = draw_matrix("W", torch.tensor([[1.0, -4.0], [0.0, 2.0]]))
    assert [(cell.x / CELL, cell.y / CELL) for cell in drawn.cells] == [(0, 0), (1, 0), (0, 1), (1, 1)]
    assert [cell.negative for cell in drawn.cells] == [False, True, False, False]
    assert [cell.strength for cell in drawn.cells] == [0.5, 1.0, 0.0, 0.71]
    assert drawn.cells[1].value == "[0, 1] -4"
    assert "2 x 2" in drawn.words


def test_frames_are_the_slices_of_devices():
    own = (slice(0, 1), slice(1, 3))
    rows = draw_matrix("W", torch.ones(3, 2), split="rows", slices=own)
    assert [(band.rank, band.y, band.height) for band in rows.bands] == [(0, 0, CELL), (1, CELL, 2 * CELL)]
    vector = draw_matrix("b", torch.ones(3), split="rows", slices=own)
    assert [(band.x, band.width) for band in vector.bands] == [(0, CELL), (CELL, 2 * CELL)]
    assert draw_matrix("out", torch.ones(3, 2), slices=own).bands == ()


def test_a_large_matrix_is_drawn_in_part_and_says_so():
    drawn = draw_matrix("W", torch.ones(100, 40), split="rows", slices=(slice(0, 50), slice(50, 100)))
    assert len(drawn.cells) == 32 * 32
    assert drawn.shape == "100 x 40, of which 32 x 32 are drawn"
    assert [band.rank for band in drawn.bands] == [0]
