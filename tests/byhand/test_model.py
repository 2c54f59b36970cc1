"""The parameters are those of `nn.Linear`, bit for bit."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from shardproof.byhand.model import initialise_layers


@pytest.mark.parametrize("widths", [(6, 4, 2), (1, 1), (31, 7, 64, 3)])
def test_model_is_the_notebooks(widths):
    with torch.random.fork_rng():
        torch.manual_seed(12345)
        linears = [nn.Linear(i, o) for i, o in pairwise(widths)]
    for ours, theirs in zip(initialise_layers(widths, seed=12345), linears, strict=True):
        assert torch.equal(ours.W, theirs.weight)
        assert torch.equal(ours.b, theirs.bias)


def test_another_dtype_starts_from_the_same_model():
    for wide, narrow in zip(
        initialise_layers((5, 4, 3), seed=2), initialise_layers((5, 4, 3), seed=2, dtype=torch.bfloat16), strict=True
    ):
        assert torch.equal(wide.W.bfloat16(), narrow.W)
        assert torch.equal(wide.b.bfloat16(), narrow.b)
    assert not torch.equal(initialise_layers((5, 4), seed=2)[0].W, initialise_layers((5, 4), seed=3)[0].W)
