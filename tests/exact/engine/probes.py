"""What the tests of the engine share: parameters drawn outside, and whether two tensors have the same digits."""

import torch
from torch import nn

from shardproof.exact.engine.mode import ordinary_pytorch


def drawn(*shape, seed=0):
    """A parameter of standard normal numbers, made outside exact arithmetic even inside it."""
    with ordinary_pytorch():
        return nn.Parameter(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)))


def same(exact, a, b):
    """Whether two tensors hold the same residues."""
    return torch.equal(exact.digits(a), exact.digits(b))
