"""The eager kernel's cheap tests settle what they may and leave the rest to `examine`."""

import math

import pytest
import torch

from shardproof.comparison import streaming
from shardproof.comparison.blocks import open_blocks
from shardproof.comparison.elementwise import Tolerance
from shardproof.comparison.formats import FLOAT_FORMATS
from shardproof.comparison.streaming import block_bytes, stream
from shardproof.comparison.tally import Tally

COUNT, BLOCK = 4096, 512
CPU = torch.device("cpu")


def run(actual, expected, monkeypatch, tolerance=None):
    """The tally, and how many blocks went to `examine`."""
    examined, examine = [], streaming.examine
    monkeypatch.setattr(streaming, "examine", lambda *args: (examined.append(1), examine(*args))[1])
    tally = Tally(ulp_limit=FLOAT_FORMATS[expected.dtype].ulp_limit)
    stream(open_blocks(actual, expected, BLOCK), tolerance or Tolerance(rtol=1e-5, atol=1e-5, equal_nan=False), tally)
    return tally, len(examined)


def draw(dtype=torch.float32):
    return torch.randn(COUNT, generator=torch.Generator().manual_seed(0)).to(dtype)


@pytest.mark.parametrize("dtype", FLOAT_FORMATS)
def test_equal_and_nearly_equal_blocks_are_settled_cheaply(dtype, monkeypatch):
    expected = draw(dtype)
    tally, examined = run(expected.clone(), expected, monkeypatch)
    assert (tally.exact, tally.maxdiff, examined) == (True, 0, 0)
    actual = expected.clone()
    actual.view(FLOAT_FORMATS[dtype].integer)[::2] += 1
    tally, examined = run(actual, expected, monkeypatch)
    assert (tally.exact, tally.max_ulp, examined) == (False, 1, 0)
    assert tally.maxdiff == float((actual - expected).abs().max())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_only_the_block_with_a_special_value_is_examined(value, monkeypatch):
    expected = draw()
    actual = expected.clone()
    actual[1000] = value
    tally, examined = run(actual, expected, monkeypatch)
    assert examined == 1
    assert (tally.nan_actual, tally.inf_actual) == (int(math.isnan(value)), int(math.isinf(value)))
    assert tally.worst.start == 512


def test_one_element_out_of_tolerance_is_found_in_any_block(monkeypatch):
    for at in (0, 511, 512, COUNT - 1):
        expected = draw()
        actual = expected.clone()
        actual[at] += 0.5
        tally, _ = run(actual, expected, monkeypatch)
        assert not tally.close
        assert tally.worst.start == at // BLOCK * BLOCK


def test_blocks_of_other_dtypes_hold_fewer_bytes():
    assert block_bytes(torch.int64, CPU) < block_bytes(torch.float32, CPU)
