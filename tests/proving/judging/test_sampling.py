"""Samples: small tensors as they are, large ones in blocks, and nothing that differs is left out of either."""

import pytest
import torch

from shardproof.proving.evidence import MOST_CELLS
from shardproof.proving.judging.alignment import ActualExpected
from shardproof.proving.judging.sampling import take_sample


def sample(expected, actual):
    return take_sample(1, ActualExpected(actual=actual, expected=expected), actual != expected)


def test_a_small_matrix_is_kept_as_it_is():
    expected = torch.arange(12.0).view(3, 4)
    actual = expected.clone()
    actual[1, 2] += 5
    found = sample(expected, actual)
    assert (found.rank, found.shape) == (1, (3, 4))
    assert torch.equal(found.expected, expected.double())
    assert torch.equal(found.actual, actual.double())
    assert found.differs.nonzero().tolist() == [[1, 2]]


@pytest.mark.parametrize(
    ("shape", "cells"),
    [
        ((), (1, 1)),
        ((7,), (1, 7)),
        ((200,), (4, 64)),
        ((2, 3, 5), (6, 5)),
        ((1000, 65), (63, 33)),
        ((64, 64), (64, 64)),
    ],
)
def test_a_sample_has_few_cells(shape, cells):
    found = sample(torch.zeros(shape), torch.zeros(shape))
    assert tuple(found.differs.shape) == cells
    assert max(cells) <= MOST_CELLS
    assert not found.differs.any()


@pytest.mark.parametrize("at", [0, 1, 12_345, 299 * 130 - 1])
def test_one_element_of_a_large_matrix_is_seen(at):
    expected = torch.ones(299, 130)
    actual = expected.clone()
    actual.view(-1)[at] = 3
    found = sample(expected, actual)
    assert int(found.differs.sum()) == 1
    assert found.actual[found.differs].tolist() == [3.0]
    assert found.expected[found.differs].tolist() == [1.0]


def test_a_cell_shows_what_differs_most_and_what_is_marked_before_what_is_not():
    expected = torch.zeros(1, 128)
    actual = expected.clone()
    actual[0, 0], actual[0, 1], actual[0, 3] = 1.0, 2.0, torch.nan
    found = sample(expected, actual)
    assert found.actual[0, 0] == 2.0
    assert found.actual[0, 1].isnan()
    assert found.differs[0, :3].tolist() == [True, True, False]
    marks = torch.zeros(1, 128, dtype=torch.bool)
    marks[0, 0] = True  # in exact arithmetic; in float64 another element is farther
    cell = take_sample(0, ActualExpected(actual=actual, expected=expected), marks)
    assert cell.actual[0, 0] == 1.0


def test_a_long_vector_is_filled_with_its_last_element():
    vector = torch.arange(70.0)
    actual = vector.clone()
    actual[69] = -1
    found = sample(vector, actual)
    assert found.differs[0].sum() == 0
    assert found.differs[1, 5:].all()
    assert not found.differs[1, :5].any()


@pytest.mark.parametrize("off", [0.0, 0.25])
def test_what_is_marked_is_shown_however_near_it_is_in_float64(off):
    expected = torch.zeros(1, 128)
    actual = expected.clone()
    actual[0, 0], expected[0, 1], actual[0, 1] = 2.0, 7.0, 7.0 + off
    marks = torch.zeros(1, 128, dtype=torch.bool)
    marks[0, 1] = True
    cell = take_sample(0, ActualExpected(actual=actual, expected=expected), marks)
    assert (cell.expected[0, 0], cell.actual[0, 0], bool(cell.differs[0, 0])) == (7.0, 7.0 + off, True)
