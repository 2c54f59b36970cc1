"""What the tests of the engine share: parameters drawn outside, ops without a rule, and whether digits are the same."""

import torch
from torch import nn

from shardproof.exact.engine.function_mode import ordinary_pytorch

torch.library.define("shardproof_tests::halve", "(Tensor x) -> Tensor")
torch.library.impl("shardproof_tests::halve", "CompositeExplicitAutograd", lambda x: x / 2)
torch.library.define("shardproof_tests::halve_", "(Tensor(a!) x) -> Tensor(a!)")
torch.library.impl("shardproof_tests::halve_", "CompositeExplicitAutograd", lambda x: x.div_(2))


def drawn(*shape, seed=0):
    """A parameter of standard normal numbers, made outside exact arithmetic even inside it."""
    with ordinary_pytorch():
        return nn.Parameter(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)))


def same(exact, a, b):
    """Whether two tensors hold the same residues."""
    return torch.equal(exact.digits(a), exact.digits(b))
