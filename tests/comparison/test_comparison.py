"""A comparison's line is the notebook's; its description shows everything; its outcome is one word."""

import math

import pytest
import torch

from shardproof.comparison import Comparison, compare


def test_the_line_is_the_notebooks():
    actual, expected = torch.ones(4), torch.ones(4)
    assert str(compare(actual, expected, name="forward pass")) == (
        "forward pass    | exact: True  | approximate: True  | maxdiff: 0.0"
    )
    actual[2] += 2**-23
    assert str(compare(actual, expected, name="TP - forward pass")) == (
        "TP - forward pass | exact: False | approximate: True  | maxdiff: 1.1920928955078125e-07"
    )


def test_the_description_shows_everything():
    actual, expected = torch.ones(2, 2), torch.ones(2, 2)
    actual[1, 0] = -math.inf
    assert compare(actual, expected, name="w").describe() == (
        "w               | exact: False | approximate: False | maxdiff: inf"
        " | worst: [1, 0] actual -inf expected 1.0, 3204448256 ulp apart | max ulp: >= 8388608"
        " | inf: 1 actual, 0 expected | float32 [2, 2] | rtol 1.3e-06, atol 1e-05"
    )


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({}, "exact"),
        ({"exact": False}, "approximate"),
        ({"exact": False, "approximate": False}, "diverged"),
        ({"count": 0}, "nothing"),
        ({"count": 0, "mismatch": "shapes differ"}, "diverged"),
    ],
)
def test_the_outcome_is_one_word(changes, outcome):
    settings = {"name": "w", "shape": (2,), "dtype": torch.float32, "count": 2, "exact": True, "approximate": True}
    found = Comparison(**(settings | {"rtol": 0.0, "atol": 0.0, "maxdiff": 0.0} | changes))
    assert found.outcome == outcome
