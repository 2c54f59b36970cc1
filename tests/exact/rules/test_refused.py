"""Ops that cannot be exact say why."""

import pytest
import torch
from tests.exact.rules.formulas import leaf
from tests.exact.rules.integers import mode, sixteenths

from shardproof.exact import UnsupportedOpError
from shardproof.exact.rules.refused import REASONS, find_reason
from shardproof.exact.rules.registry import RULES

CALLS = {
    "square roots": torch.linalg.cholesky,
    "eigenvalues": torch.linalg.svdvals,
    "roots of unity": torch.fft.fft,
    "singular values": torch.linalg.pinv,
}


@pytest.mark.parametrize("reason", CALLS)
def test_a_refusal_says_why(reason):
    x = leaf(sixteenths(9))
    with mode(), pytest.raises(UnsupportedOpError, match=reason):
        CALLS[reason](x.view(3, 3))


def test_reasons_are_of_ops_that_exist_and_have_no_rule():
    for name in REASONS:
        packet = getattr(torch.ops.aten, name)
        assert not any(getattr(packet, overload) in RULES for overload in packet.overloads()), name
    assert find_reason("add") is None
