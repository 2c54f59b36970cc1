"""JSON has no NaN and no infinity: they are strings, and everything else is a number."""

import json
import math

import pytest

from shardproof.report.json_number import json_number


@pytest.mark.parametrize(
    ("value", "written"),
    [(math.nan, "NaN"), (math.inf, "Infinity"), (-math.inf, "-Infinity"), (0.5, 0.5), (-0.0, 0.0), (1e308, 1e308)],
)
def test_what_is_not_finite_is_a_string(value, written):
    assert json_number(value) == written
    json.dumps(json_number(value), allow_nan=False)
