"""Heat maps: captions in words, and the cells as compact text."""

import base64
import struct

import torch
from tests.report.page.shown import WRONG, evidence

from shardproof.proving.evidence import Sample
from shardproof.report.page.heat_maps import describe_maps


def test_the_words_say_what_differs_and_the_cells_come_back():
    (one,), values = describe_maps("t1", evidence().samples[WRONG.key])
    assert (one.key, one.rows, one.columns) == ("t1r1", 1, 2)
    assert one.caption == "Rank 1, shape 1 x 2"
    assert one.words == "On rank 1 1 of 2 cells differ; the largest difference is 1.5."
    cells = values["t1r1"]
    assert struct.unpack("<2f", base64.b64decode(cells["difference"])) == (0.0, 1.5)
    assert base64.b64decode(cells["differs"]) == b"\x00\x01"


def test_a_difference_far_below_the_values_is_kept():
    expected = torch.full((1, 1), 0.1, dtype=torch.float64)
    near = Sample(rank=0, shape=(1, 1), expected=expected, actual=expected + 1e-12, differs=torch.ones(1, 1) > 0)
    _, values = describe_maps("t0", [near])
    (difference,) = struct.unpack("<f", base64.b64decode(values["t0r0"]["difference"]))
    assert abs(difference - 1e-12) < 1e-15


def test_a_large_tensor_says_that_a_cell_is_a_block_and_nan_is_infinitely_far():
    block = Sample(
        rank=0, shape=(8, 8), expected=torch.zeros(2, 2), actual=torch.full((2, 2), torch.nan),
        differs=torch.ones(2, 2) > 0,
    )  # fmt: skip
    (one,), _ = describe_maps("t0", [block])
    assert one.caption.endswith("a cell for each block of about 16 elements")
    assert one.words.endswith("the largest difference is inf.")
