"""Fixtures of the engine's tests."""

import pytest
import torch

from shardproof.exact import ExactArithmetic


@pytest.fixture(autouse=True)
def fixed_seed():
    """PyTorch's generator starts alike in each test, and is left as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture
def exact():
    """Inside exact arithmetic, every op checked for canonical residues."""
    with ExactArithmetic(seed=1, check=True) as mode:
        yield mode
